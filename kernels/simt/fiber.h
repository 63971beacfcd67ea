#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define TESSERA_SIMT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TESSERA_SIMT_ASAN 1
#endif
#endif

#ifdef TESSERA_SIMT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace tessera::simt {

// A thread of control on its own stack, or (stack filled in by HostFiber) a host thread itself.
struct Fiber {
  void* stack_pointer = nullptr;  // valid while the fiber is switched out
  char* stack_bottom = nullptr;   // lowest address
  size_t stack_bytes = 0;
  void* fake_stack = nullptr;  // AddressSanitizer's, while the fiber is switched out
};

// Saves the callee-saved registers on the stack, stores its pointer at *save and continues on load.
extern "C" void TesseraSimtSwap(void** save, void* load);

inline void SwitchFiber(Fiber& from, Fiber& to, [[maybe_unused]] bool from_ends = false) {
#ifdef TESSERA_SIMT_ASAN
  __sanitizer_start_switch_fiber(from_ends ? nullptr : &from.fake_stack, to.stack_bottom,
                                 to.stack_bytes);
#endif
  TesseraSimtSwap(&from.stack_pointer, to.stack_pointer);
#ifdef TESSERA_SIMT_ASAN
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

// First thing a new fiber calls.
inline void EnterFiber() {
#ifdef TESSERA_SIMT_ASAN
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

// The calling host thread as a fiber to come back to.
Fiber HostFiber();

// Stacks for up to 1,024 fibers, each with a guard page below it. Pages are taken on first use.
class FiberStacks {
 public:
  FiberStacks();
  ~FiberStacks();
  FiberStacks(const FiberStacks&) = delete;
  FiberStacks& operator=(const FiberStacks&) = delete;

  // A fiber on stack `index` that will run entry, which must never return.
  Fiber Make(int index, void (*entry)());

 private:
  char* memory_;
};

}  // namespace tessera::simt
