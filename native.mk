# The native core under sanitizers, straight with the compiler: `make native-test` builds and runs tests/native twice,
# with addresses and undefined behaviour checked, and with data races checked.
NATIVE_DIR := build/native
NATIVE_SOURCES := $(filter-out tables/native/bindings/% streaming/native/%bindings.cpp,$(wildcard tables/native/*/*.cpp streaming/native/*.cpp)) $(wildcard tests/native/*.cpp)
NATIVE_RULES := $(wildcard tables/native/optimizers/rules/*.h)
NATIVE_HEADERS := $(NATIVE_DIR)/generated/optimizers/all_rules.h $(NATIVE_RULES) $(wildcard tables/native/*/*.h streaming/native/*.h tests/native/*.h)
# -fno-var-tracking: the compiler would spend half its time on where a debugger finds values; reports need lines alone.
NATIVE_FLAGS := -std=c++17 -O1 -g -fno-var-tracking -Wall -Wextra -Werror -ffp-contract=off -fno-math-errno -fno-trapping-math -fno-omit-frame-pointer \
	-Itables/native -I$(NATIVE_DIR)/generated -Istreaming/native -pthread
NATIVE_SANITIZERS_memory := -fsanitize=address,undefined -fno-sanitize-recover=all
NATIVE_SANITIZERS_races := -fsanitize=thread
NATIVE_JOBS := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)

.PHONY: native-test
native-test:  ## run the C++ tests under ASan+UBSan and under TSan
	+$(MAKE) --no-print-directory -j$(NATIVE_JOBS) $(NATIVE_DIR)/memory/run $(NATIVE_DIR)/races/run
	UBSAN_OPTIONS=print_stacktrace=1 $(NATIVE_DIR)/memory/run
	$(NATIVE_DIR)/races/run

# With the folder among what it depends on, a rule that is taken out leaves the list as well.
$(NATIVE_DIR)/generated/optimizers/all_rules.h: tables/native/optimizers/rules $(NATIVE_RULES)
	@mkdir -p $(@D)
	printf '#include "%s"\n' $(NATIVE_RULES:tables/native/%=%) > $@

define NATIVE_BUILD
$(NATIVE_DIR)/$(1)/%.o: %.cpp $(NATIVE_HEADERS)
	@mkdir -p $$(@D)
	$(CXX) $(NATIVE_FLAGS) $(NATIVE_SANITIZERS_$(1)) -c $$< -o $$@
$(NATIVE_DIR)/$(1)/run: $(NATIVE_SOURCES:%.cpp=$(NATIVE_DIR)/$(1)/%.o)
	$(CXX) $(NATIVE_SANITIZERS_$(1)) -pthread $$^ -o $$@
endef
$(foreach kind,memory races,$(eval $(call NATIVE_BUILD,$(kind))))
