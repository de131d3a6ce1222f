// What a process does first when it was forked.
#pragma once

#include <pthread.h>

#include <new>

namespace monolith {

// Registers `work` for every fork from here on. Returns true, or throws std::bad_alloc.
inline bool in_child(void (*work)()) {
  if (pthread_atfork(nullptr, nullptr, work) != 0) throw std::bad_alloc();
  return true;
}

}  // namespace monolith
