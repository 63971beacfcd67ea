#include "kernels/simt/fiber.h"

#include <pthread.h>
#include <sys/mman.h>

#include <cstdint>

#include "base/check.h"

asm(R"(
.text
.globl TesseraSimtSwap
.type TesseraSimtSwap,@function
TesseraSimtSwap:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size TesseraSimtSwap, .-TesseraSimtSwap
)");

namespace tessera::simt {
namespace {

constexpr int kMaxFibers = 1024;
constexpr int kSavedRegisters = 6;
constexpr size_t kGuardBytes = 4096;
#ifdef TESSERA_SIMT_ASAN
constexpr size_t kStackBytes = size_t{512} << 10;
#else
constexpr size_t kStackBytes = size_t{128} << 10;
#endif

// Without it the hot lines of all stacks would fall into the same few cache sets.
size_t StackColour(int index) { return static_cast<size_t>(index % 64) * 320; }

}  // namespace

Fiber HostFiber() {
  Fiber fiber;
#ifdef TESSERA_SIMT_ASAN
  pthread_attr_t attributes;
  void* bottom = nullptr;
  CHECK(pthread_getattr_np(pthread_self(), &attributes) == 0);
  CHECK(pthread_attr_getstack(&attributes, &bottom, &fiber.stack_bytes) == 0);
  pthread_attr_destroy(&attributes);
  fiber.stack_bottom = static_cast<char*>(bottom);
#endif
  return fiber;
}

FiberStacks::FiberStacks() {
  void* memory = mmap(nullptr, kMaxFibers * kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(memory != MAP_FAILED) << "no address space for the stacks of a block's lanes";
  memory_ = static_cast<char*>(memory);
  for (int i = 0; i < kMaxFibers; ++i) {
    CHECK(mprotect(memory_ + i * kStackBytes, kGuardBytes, PROT_NONE) == 0);
  }
}

FiberStacks::~FiberStacks() { munmap(memory_, kMaxFibers * kStackBytes); }

Fiber FiberStacks::Make(int index, void (*entry)()) {
  Fiber fiber;
  fiber.stack_bottom = memory_ + index * kStackBytes + kGuardBytes;
  fiber.stack_bytes = kStackBytes - kGuardBytes;
  char* top = fiber.stack_bottom + fiber.stack_bytes - StackColour(index);
#ifdef TESSERA_SIMT_ASAN
  ASAN_UNPOISON_MEMORY_REGION(top - 8192, 8192);  // what the frames of an ended fiber left
#endif
  // Popped by TesseraSimtSwap: six registers and the return address. Entry must find the stack
  // pointer at 8 modulo 16, as after a call.
  auto* slot = reinterpret_cast<uint64_t*>(top - 64);
  *--slot = 0;
  *--slot = reinterpret_cast<uint64_t>(entry);
  for (int i = 0; i < kSavedRegisters; ++i) *--slot = 0;
  fiber.stack_pointer = slot;
  return fiber;
}

}  // namespace tessera::simt
