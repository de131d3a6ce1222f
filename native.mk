# The native core under sanitizers, straight with the compiler: `make native-test` builds and runs tests/native twice,
# with addresses and undefined behaviour checked, and with data races checked.
NATIVE_DIR := build/native
NATIVE_SOURCES := $(filter-out tables/native/module.cpp tables/native/%bindings.cpp,$(wildcard tables/native/*.cpp)) $(wildcard tests/native/*.cpp)
NATIVE_HEADERS := $(wildcard tables/native/*.h tables/native/optimizers/*.h tests/native/*.h)
NATIVE_FLAGS := -std=c++17 -O1 -g -Wall -Wextra -Werror -ffp-contract=off -fno-math-errno -fno-trapping-math -fno-omit-frame-pointer \
	-Itables/native -pthread

.PHONY: native-test
native-test: $(NATIVE_DIR)/memory $(NATIVE_DIR)/races  ## run the C++ tests under ASan+UBSan and under TSan
	UBSAN_OPTIONS=print_stacktrace=1 $(NATIVE_DIR)/memory
	$(NATIVE_DIR)/races

$(NATIVE_DIR)/memory: $(NATIVE_SOURCES) $(NATIVE_HEADERS)
	@mkdir -p $(NATIVE_DIR)
	$(CXX) $(NATIVE_FLAGS) -fsanitize=address,undefined -fno-sanitize-recover=all $(NATIVE_SOURCES) -o $@

$(NATIVE_DIR)/races: $(NATIVE_SOURCES) $(NATIVE_HEADERS)
	@mkdir -p $(NATIVE_DIR)
	$(CXX) $(NATIVE_FLAGS) -fsanitize=thread $(NATIVE_SOURCES) -o $@
