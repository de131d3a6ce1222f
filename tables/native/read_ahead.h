// Pages of a table's file, asked for before they are read.
//
// A page that is found missing is waited for alone, and the disk works on one at a time; of pages that are asked for it
// works on many at once. Asking takes a microsecond even for a page that is there, so it is done only as long as this
// thread finds pages missing: a file that is all in the page cache is never asked for.
#pragma once

#include <cstddef>

namespace monolith {

// Whether this thread has waited for the disk lately. To be called once for every block of some 32 rows.
bool waits_for_disk();

// The pages of [begin, begin + bytes), to be read soon.
void ask_for(const void* begin, std::size_t bytes);

}  // namespace monolith
