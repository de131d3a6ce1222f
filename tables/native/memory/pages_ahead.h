// Memory that will be written to soon, made ready by a thread of its own.
//
// Whoever writes to a page first waits until the system has found and cleared it: 0.1 to 0.3 ms for a huge page,
// several where a hypervisor has to find the memory as well. A table that grows tells in time what it needs next, and
// trains on meanwhile. What is not ready when it is needed comes the usual way. Thread safe.
#pragma once

namespace monolith {

// The whole pages of [begin, end), the last ones first.
void fault_ahead(const void* owner, char* begin, char* end) noexcept;
// Returns when nothing is done any more for the owner, who may then give its memory back.
void stop_faulting(const void* owner);

}  // namespace monolith
