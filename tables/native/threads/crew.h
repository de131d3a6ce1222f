// The threads that share the work of large calls: one crew for the process. What is computed does not depend on their
// number.
//
// All work lies in one list of jobs, of which each thread that has nothing to do takes a part: a call of a collection
// is a job of one part a table, within which each table adds jobs of one part a group of its ids. So a table that is
// larger than all the others is worked on by every thread, and who is through with a small one takes a part of the
// next.
//
// Any thread may call, also from within a part. Who waits for the last parts of a job takes parts of other jobs that
// were added within the same call, and no parts of other calls: those could want a lock that the waiting thread holds.
#pragma once

#include <functional>

namespace monolith {

constexpr unsigned kMaxThreads = 64;

unsigned crew_threads();
void set_crew_threads(unsigned threads);  // 1 to kMaxThreads; those too many end as soon as they have nothing to do

// Calls work(0) to work(parts - 1), each once, here and in the crew's other threads, and returns when all have
// returned. The first exception in order of parts is thrown on.
void share_out(unsigned parts, const std::function<void(unsigned)>& work);

template <class Work>
void in_parallel(unsigned parts, const Work& work) {
  if (parts == 1)
    work(0);
  else if (parts != 0)
    share_out(parts, work);
}

}  // namespace monolith
