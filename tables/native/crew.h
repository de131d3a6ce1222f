// The threads that share a call's work; one crew for the process. What is computed does not depend on their number.
#pragma once

#include <functional>

namespace monolith {

constexpr unsigned kMaxThreads = 64;

unsigned crew_threads();
void set_crew_threads(unsigned threads);  // 1 to kMaxThreads

// Calls work(0) to work(parts - 1), each once, work(0) here and the others beside it as far as there are threads, and
// returns when all have returned. The first exception in order of parts is thrown on. When the crew is at work for
// another thread, all is done here.
void share_out(unsigned parts, const std::function<void(unsigned)>& work);

template <class Work>
void in_parallel(unsigned parts, const Work& work) {
  if (parts == 1)
    work(0);
  else if (parts != 0)
    share_out(parts, work);
}

}  // namespace monolith
