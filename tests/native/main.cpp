// Runs every native test; the exit status is the number of those that failed.
#include <chrono>
#include <cstdio>
#include <exception>

#include "check.h"

int main() {
  int failed = 0;
  for (const auto& tests :
       {segment_tests(), index_tests(), order_tests(), pages_tests(), pipeline_tests(), joiner_tests(), decoder_tests(),
        table_tests(), step_tests(), policy_tests(), hot_ids_tests(), thread_tests(), crew_tests(), split_tests()})
    for (const Test& test : tests) {
      const auto start = std::chrono::steady_clock::now();
      const char* verdict = "ok";
      try {
        test.run();
      } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        verdict = "FAILED";
        ++failed;
      }
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      std::printf("%-6s %5.2f s  %s\n", verdict, took.count(), test.name);
    }
  return failed;
}
