// Memory for large results: what one was in serves the next, once nobody reads it any more.
//
// The system clears memory page by page as it is first written to, and malloc gives large blocks back to it at once. So
// two blocks that were returned are kept. Thread safe.
#pragma once

#include <cstddef>

namespace monolith {

// Room for so many values, of any contents, beginning at a memory line. Throws std::bad_alloc.
float* take_memory(std::size_t floats);
void return_memory(float* taken) noexcept;

}  // namespace monolith
