// A test is a function that throws when a CHECK does not hold.
#pragma once

#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#define CHECK(condition)                                                                                \
  do {                                                                                                  \
    if (!(condition))                                                                                   \
      throw std::runtime_error(std::string(__FILE__ ":") + std::to_string(__LINE__) + ": " #condition); \
  } while (false)

struct Test {
  const char* name;
  std::function<void()> run;
};

std::vector<Test> segment_tests();
std::vector<Test> index_tests();
std::vector<Test> joiner_tests();
std::vector<Test> decoder_tests();
std::vector<Test> order_tests();
std::vector<Test> pages_tests();
std::vector<Test> pipeline_tests();
std::vector<Test> table_tests();
std::vector<Test> step_tests();
std::vector<Test> policy_tests();
std::vector<Test> hot_ids_tests();
std::vector<Test> thread_tests();
std::vector<Test> crew_tests();
std::vector<Test> split_tests();
