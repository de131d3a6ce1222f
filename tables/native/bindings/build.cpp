// What this build is: the commit and the compiler it was made with, and the vector code that it takes on this machine.
#include "bindings/bindings.h"
#include "memory/simd.h"

#ifndef MONOLITH_COMMIT
#define MONOLITH_COMMIT ""
#endif

#if defined(__clang__)
#define MONOLITH_COMPILER __VERSION__  // begins with the compiler's name
#elif defined(__GNUC__)
#define MONOLITH_COMPILER "GCC " __VERSION__
#else
#define MONOLITH_COMPILER "unknown compiler"
#endif

void bind_build(nanobind::module_& m) {
  m.attr("commit") = MONOLITH_COMMIT;
  m.attr("compiler") = MONOLITH_COMPILER;
  m.def("simd", [] { return monolith::simd() == monolith::Simd::avx2 ? "avx2" : "portable"; });
}
