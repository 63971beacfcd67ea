#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/simt/fiber.h"
#include "kernels/simt/shared_memory.h"
#include "kernels/simt/vector_types.h"

namespace tessera::simt {

inline constexpr uint32_t kFullWarp = 0xFFFFFFFFu;
inline constexpr int kMaxThreadsPerBlock = 1024;

// Where a lane waits, for the report of a deadlock. Lanes that meet in one operation must come from
// the same line.
struct CallSite {
  const char* operation = "start";
  const char* file = "";
  int line = 0;
};

// One launch: the grid's shape, and body, which calls the kernel with its arguments once per lane.
struct KernelLaunch {
  std::string name;
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;
  std::function<void()> body;
};

// What the lanes of one warp hand to an operation of the whole warp, by lane.
struct WarpArguments {
  const void* in[32];
  void* out[32];
};

// Runs once, on the stack of the last lane to arrive, for all lanes in participants.
using WarpFunction = void (*)(WarpArguments& arguments, uint32_t participants);

// A cp.async under way. What it copies arrives when a wait covers it: see Block::CopyAsync.
struct AsyncCopy {
  void* shared;
  const void* global;
  uint32_t num_source_bytes;  // the rest of the 16 bytes is zero
};

// One CUDA thread.
struct Lane {
  Fiber fiber;
  uint3 thread_index;
  int warp = 0;
  int lane = 0;
  CallSite site;
  std::vector<AsyncCopy> copies;
  std::vector<size_t> group_ends;  // of each committed group, an index into copies
};

// Runs the thread blocks of a grid on the calling host thread, one after another. Each lane is a
// fiber. A lane runs until it waits for others; then a random ready lane of its warp goes on, or a
// random warp if there is none. A warp that could go on is now and then suspended for another one.
// So threads run far ahead of each other, in an order that the seed decides, and a missing barrier
// shows itself as poison or as a wrong value.
//
// Aborts with the kernel's name, the block and what each lane waits for on: a deadlock, lanes of
// one operation at different lines, a mask without its caller, a misaligned or foreign address, a
// store outside shared memory, cp.async still under way when a lane ends.
class Block {
 public:
  // The block that this host thread runs; null between launches.
  static Block& Current() { return *current_; }
  static bool InKernel() { return current_ != nullptr; }

  Block() = default;
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  // Runs every block of the grid, in an order that the seed decides.
  void RunGrid(const KernelLaunch& launch, uint64_t seed);

  Lane& lane() { return *running_; }
  uint3 block_index() const { return block_index_; }
  const KernelLaunch& launch() const { return *launch_; }
  SharedMemory& shared() { return shared_; }

  // Waits until every live lane in mask has called it with the same mask, function and line, then
  // applies function once. A null function only synchronises, from any line.
  void Collective(const CallSite& site, uint32_t mask, const void* in, void* out,
                  WarpFunction function);

  // __syncthreads: every live thread of the block, from one line.
  void SyncThreads(const CallSite& site);
  // bar.sync and bar.arrive: num_threads of the block in all, from any line.
  void NamedBarrierSync(const CallSite& site, int barrier, int num_threads);
  void NamedBarrierArrive(const CallSite& site, int barrier, int num_threads);

  // cp.async: the destination is poisoned at once, so that a reader that should have been waited
  // for sees it, and the source is read and stored only when a wait covers the copy, so that a
  // missing wait, and a source overwritten in between, are seen too.
  void CopyAsync(void* shared, const void* global, uint32_t num_source_bytes);
  void CommitGroup();
  void WaitGroup(size_t max_pending_groups);

  // A point where other lanes may run first; every atomic operation is one.
  void Preempt();

  [[noreturn]] void Fail(const std::string& message);

 private:
  struct Rendezvous {
    uint32_t mask = 0;
    uint32_t arrived = 0;
    WarpFunction function = nullptr;
    CallSite site;
  };

  struct Warp {
    uint32_t live = 0;          // lanes that have not ended
    uint32_t ready = 0;         // lanes that could run, without the running one
    uint32_t pending = 0;       // rendezvous under way
    Rendezvous rendezvous[32];  // by the lowest lane of its mask
    WarpArguments arguments;
  };

  struct Barrier {
    int num_arrived = 0;
    int num_expected = 0;
    uint32_t waiting[32] = {};  // by warp
    CallSite site;
  };

  static void LaneMain();

  void RunBlock(uint3 block_index);
  void StartLanes();
  void CheckBlockEnd();
  void CheckLaunch() const;

  [[noreturn]] void EndLane();
  void Complete(Warp& warp, Rendezvous& rendezvous);
  void Release(Barrier& barrier);
  void Arrive(const CallSite& site, int barrier, int num_threads);
  void SetReady(int warp, uint32_t lanes);
  void SwitchAway(bool ends = false);
  void SwitchTo(int warp, bool ends);
  int PickWarp() { return PickBit(ready_warps_); }
  int PickBit(uint32_t mask);
  uint64_t NextRandom();

  [[noreturn]] void FailDivergent(const Rendezvous& rendezvous, const CallSite& site);
  std::string DescribeWaiting() const;

  static constinit thread_local Block* current_;

  const KernelLaunch* launch_ = nullptr;
  uint3 block_index_{};
  int num_threads_ = 0;
  int num_live_ = 0;
  Lane* running_ = nullptr;
  uint32_t ready_warps_ = 0;
  uint64_t random_ = 0;
  Fiber host_;
  Warp warps_[32];
  Barrier barriers_[16];
  SharedMemory shared_;
  std::vector<Lane> lanes_;
  std::unique_ptr<FiberStacks> stacks_;
};

}  // namespace tessera::simt
