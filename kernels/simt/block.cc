#include "kernels/simt/block.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <sstream>

#include "base/check.h"

namespace tessera::simt {
namespace {

constexpr uint64_t kWarpSwitchMask = 15;  // one in 16 operations lets another warp go first

uint64_t Mix(uint64_t x) {  // SplitMix64
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

std::string LaneRanges(uint32_t lanes) {
  std::ostringstream text;
  const char* separator = "";
  for (int first = 0; first < 32; ++first) {
    if (!(lanes >> first & 1)) continue;
    int last = first;
    while (last < 31 && (lanes >> (last + 1) & 1)) ++last;
    text << separator << first;
    if (last > first) text << '-' << last;
    separator = ",";
    first = last;
  }
  return text.str();
}

std::ostream& operator<<(std::ostream& out, const CallSite& site) {
  return out << site.operation << " (" << site.file << ':' << site.line << ')';
}

bool SameSite(const CallSite& a, const CallSite& b) {
  return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

}  // namespace

constinit thread_local Block* Block::current_ = nullptr;

void Block::RunGrid(const KernelLaunch& launch, uint64_t seed) {
  CHECK(current_ == nullptr) << "a kernel may not launch another";
  current_ = this;
  launch_ = &launch;
  CheckLaunch();
  num_threads_ = static_cast<int>(launch.block.x * launch.block.y * launch.block.z);
  if (!stacks_) stacks_ = std::make_unique<FiberStacks>();
  if (static_cast<int>(lanes_.size()) < num_threads_) lanes_.resize(num_threads_);
  host_ = HostFiber();

  const uint64_t num_blocks = uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
  uint64_t stride = Mix(seed) % num_blocks + 1;
  while (std::gcd(stride, num_blocks) != 1) ++stride;
  uint64_t index = Mix(seed + 1) % num_blocks;
  for (uint64_t i = 0; i < num_blocks; ++i) {
    random_ = Mix(seed ^ Mix(index)) | 1;
    const uint64_t plane = uint64_t{launch.grid.x} * launch.grid.y;
    RunBlock({static_cast<unsigned>(index % launch.grid.x),
              static_cast<unsigned>(index % plane / launch.grid.x),
              static_cast<unsigned>(index / plane)});
    index = (index + stride) % num_blocks;
  }
  current_ = nullptr;
}

void Block::CheckLaunch() const {
  const dim3 grid = launch_->grid;
  const dim3 block = launch_->block;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  CHECK(threads >= 1 && threads <= kMaxThreadsPerBlock && block.z <= 64)
      << launch_->name << ": block of " << threads << " threads";
  CHECK(grid.x >= 1 && grid.y >= 1 && grid.z >= 1 && grid.x <= 0x7FFFFFFFu && grid.y <= 65535 &&
        grid.z <= 65535)
      << launch_->name << ": grid of " << grid.x << " x " << grid.y << " x " << grid.z;
  CHECK_LE(launch_->shared_bytes, kMaxSharedBytes) << launch_->name << ": dynamic shared bytes";
}

void Block::RunBlock(uint3 block_index) {
  block_index_ = block_index;
  shared_.Reset(launch_->shared_bytes);
  StartLanes();
  const int warp = PickWarp();
  const int lane = PickBit(warps_[warp].ready);
  warps_[warp].ready &= ~(1u << lane);
  if (warps_[warp].ready == 0) ready_warps_ &= ~(1u << warp);
  running_ = &lanes_[warp * 32 + lane];
  SwitchFiber(host_, running_->fiber);
  CheckBlockEnd();
}

void Block::StartLanes() {
  num_live_ = num_threads_;
  ready_warps_ = 0;
  const dim3 shape = launch_->block;
  for (int thread = 0; thread < num_threads_; ++thread) {
    const unsigned t = static_cast<unsigned>(thread);
    Lane& lane = lanes_[thread];
    lane.fiber = stacks_->Make(thread, &LaneMain);
    lane.thread_index = {t % shape.x, t / shape.x % shape.y, t / (shape.x * shape.y)};
    lane.warp = thread / 32;
    lane.lane = thread % 32;
    lane.site = CallSite();
  }
  for (int warp = 0; warp * 32 < num_threads_; ++warp) {
    const int num_lanes = std::min(32, num_threads_ - warp * 32);
    warps_[warp].live = num_lanes == 32 ? kFullWarp : (1u << num_lanes) - 1;
    warps_[warp].ready = 0;
    warps_[warp].pending = 0;
    SetReady(warp, warps_[warp].live);
  }
  for (Barrier& barrier : barriers_) barrier = Barrier();
}

void Block::LaneMain() {
  EnterFiber();
  Block& block = Current();
  block.launch_->body();
  block.EndLane();
}

void Block::EndLane() {
  Lane& lane = *running_;
  if (!lane.copies.empty()) Fail("a lane ends with cp.async still under way");
  lane.group_ends.clear();
  Warp& warp = warps_[lane.warp];
  warp.live &= ~(1u << lane.lane);
  --num_live_;
  for (uint32_t pending = warp.pending; pending != 0; pending &= pending - 1) {
    Rendezvous& rendezvous = warp.rendezvous[std::countr_zero(pending)];
    if (rendezvous.arrived == (rendezvous.mask & warp.live)) Complete(warp, rendezvous);
  }
  Barrier& all = barriers_[0];
  if (all.num_arrived > 0 && all.num_arrived == num_live_) Release(all);
  lane.site = {"end", "", 0};
  if (num_live_ == 0) SwitchFiber(lane.fiber, host_, true);
  SwitchAway(true);
  std::abort();
}

void Block::CheckBlockEnd() {
  const std::string found = shared_.FindOverwrittenGuard();
  if (!found.empty()) Fail(found);
}

void Block::Collective(const CallSite& site, uint32_t mask, const void* in, void* out,
                       WarpFunction function) {
  Lane& lane = *running_;
  Warp& warp = warps_[lane.warp];
  const uint32_t self = 1u << lane.lane;
  lane.site = site;
  if ((mask & self) == 0) Fail("the mask does not name the calling lane");

  const int index = std::countr_zero(mask);
  Rendezvous& rendezvous = warp.rendezvous[index];
  if ((warp.pending >> index & 1) == 0) {
    warp.pending |= 1u << index;
    rendezvous = {mask, 0, function, site};
  } else if (rendezvous.mask != mask || rendezvous.function != function ||
             (function != nullptr && rendezvous.site.line != site.line)) {
    FailDivergent(rendezvous, site);
  }
  rendezvous.arrived |= self;
  warp.arguments.in[lane.lane] = in;
  warp.arguments.out[lane.lane] = out;
  if (rendezvous.arrived != (mask & warp.live)) return SwitchAway();

  Complete(warp, rendezvous);
  warp.ready &= ~self;
  if (warp.ready == 0) ready_warps_ &= ~(1u << lane.warp);
  if ((NextRandom() & kWarpSwitchMask) == 0) Preempt();
}

void Block::Complete(Warp& warp, Rendezvous& rendezvous) {
  const uint32_t participants = rendezvous.arrived;
  if (rendezvous.function != nullptr) rendezvous.function(warp.arguments, participants);
  warp.pending &= ~(1u << std::countr_zero(rendezvous.mask));
  SetReady(static_cast<int>(&warp - warps_), participants);
}

void Block::SyncThreads(const CallSite& site) {
  Barrier& barrier = barriers_[0];
  running_->site = site;
  if (barrier.num_arrived == 0) {
    barrier.site = site;
  } else if (!SameSite(barrier.site, site)) {
    std::ostringstream message;
    message << "divergent barrier: this lane at " << site << ", others at " << barrier.site;
    Fail(message.str());
  }
  ++barrier.num_arrived;
  if (barrier.num_arrived == num_live_) return Release(barrier);
  barrier.waiting[running_->warp] |= 1u << running_->lane;
  SwitchAway();
}

void Block::Arrive(const CallSite& site, int barrier, int num_threads) {
  running_->site = site;
  if (barrier < 1 || barrier > 15) Fail("named barriers are 1 to 15");
  if (num_threads % 32 != 0) Fail("a named barrier counts whole warps");
  Barrier& b = barriers_[barrier];
  if (b.num_arrived == 0) b.num_expected = num_threads;
  if (b.num_expected != num_threads) Fail("lanes expect different counts at a named barrier");
  ++b.num_arrived;
}

void Block::NamedBarrierSync(const CallSite& site, int barrier, int num_threads) {
  Arrive(site, barrier, num_threads);
  Barrier& b = barriers_[barrier];
  if (b.num_arrived == b.num_expected) return Release(b);
  b.waiting[running_->warp] |= 1u << running_->lane;
  SwitchAway();
}

void Block::NamedBarrierArrive(const CallSite& site, int barrier, int num_threads) {
  Arrive(site, barrier, num_threads);
  Barrier& b = barriers_[barrier];
  if (b.num_arrived == b.num_expected) Release(b);
}

void Block::Release(Barrier& barrier) {
  for (int warp = 0; warp * 32 < num_threads_; ++warp) {
    if (barrier.waiting[warp] != 0) SetReady(warp, barrier.waiting[warp]);
    barrier.waiting[warp] = 0;
  }
  barrier.num_arrived = 0;
}

void Block::CopyAsync(void* shared, const void* global, uint32_t num_source_bytes) {
  if (!shared_.Contains(shared, 16)) Fail("cp.async to an address outside shared memory");
  if (reinterpret_cast<uintptr_t>(shared) % 16 != 0) Fail("cp.async to a misaligned address");
  if (reinterpret_cast<uintptr_t>(global) % 16 != 0) Fail("cp.async from a misaligned address");
  if (num_source_bytes > 16) Fail("cp.async of more than 16 bytes");
#ifdef TESSERA_SIMT_ASAN
  char unused[16];  // AddressSanitizer reports a bad source here, not at the wait
  std::memcpy(unused, global, num_source_bytes);
#endif
  std::memset(shared, 0xFF, 16);
  running_->copies.push_back({shared, global, num_source_bytes});
}

void Block::CommitGroup() { running_->group_ends.push_back(running_->copies.size()); }

void Block::WaitGroup(size_t max_pending_groups) {
  std::vector<size_t>& ends = running_->group_ends;
  if (ends.size() <= max_pending_groups) return;
  const size_t num_groups = ends.size() - max_pending_groups;
  const size_t num_copies = ends[num_groups - 1];
  std::vector<AsyncCopy>& copies = running_->copies;
  for (size_t i = 0; i < num_copies; ++i) {
    char* shared = static_cast<char*>(copies[i].shared);
    const uint32_t num_bytes = copies[i].num_source_bytes;
    if (num_bytes == 16) {
      std::memcpy(shared, copies[i].global, 16);
    } else {
      std::memset(shared, 0, 16);
      std::memcpy(shared, copies[i].global, num_bytes);
    }
  }
  copies.erase(copies.begin(), copies.begin() + static_cast<ptrdiff_t>(num_copies));
  ends.erase(ends.begin(), ends.begin() + static_cast<ptrdiff_t>(num_groups));
  for (size_t& end : ends) end -= num_copies;
}

void Block::SetReady(int warp, uint32_t lanes) {
  warps_[warp].ready |= lanes;
  ready_warps_ |= 1u << warp;
}

void Block::Preempt() {
  if (ready_warps_ == 0) return;
  SetReady(running_->warp, 1u << running_->lane);
  SwitchTo(PickWarp(), false);
}

void Block::SwitchAway(bool ends) {
  if (ready_warps_ == 0) Fail("deadlock: no lane can go on");
  const int own = running_->warp;
  SwitchTo(warps_[own].ready != 0 ? own : PickWarp(), ends);
}

void Block::SwitchTo(int warp, bool ends) {
  const int lane = PickBit(warps_[warp].ready);
  warps_[warp].ready &= ~(1u << lane);
  if (warps_[warp].ready == 0) ready_warps_ &= ~(1u << warp);
  Lane& from = *running_;
  running_ = &lanes_[warp * 32 + lane];
  if (running_ != &from) SwitchFiber(from.fiber, running_->fiber, ends);
}

int Block::PickBit(uint32_t mask) {
  const int start = static_cast<int>(NextRandom() >> 59);
  return (std::countr_zero(std::rotr(mask, start)) + start) & 31;
}

uint64_t Block::NextRandom() {  // xorshift64*
  random_ ^= random_ >> 12;
  random_ ^= random_ << 25;
  random_ ^= random_ >> 27;
  return random_ * 0x2545F4914F6CDD1Du;
}

void Block::FailDivergent(const Rendezvous& rendezvous, const CallSite& site) {
  std::ostringstream message;
  message << "divergent warp: this lane at " << site << ", lanes " << LaneRanges(rendezvous.arrived)
          << " with mask 0x" << std::hex << rendezvous.mask << std::dec << " at "
          << rendezvous.site;
  Fail(message.str());
}

void Block::Fail(const std::string& message) {
  std::ostringstream text;
  text << "simt: kernel " << launch_->name << ", block (" << block_index_.x << ", "
       << block_index_.y << ", " << block_index_.z << "), thread (" << running_->thread_index.x
       << ", " << running_->thread_index.y << ", " << running_->thread_index.z << "), lane "
       << running_->lane << " of warp " << running_->warp << ": " << message << '\n'
       << DescribeWaiting();
  std::fputs(text.str().c_str(), stderr);
  std::fflush(stderr);
  std::abort();
}

std::string Block::DescribeWaiting() const {
  std::ostringstream text;
  for (int first = 0; first < num_threads_; first += 32) {
    const int end = std::min(first + 32, num_threads_);
    uint32_t described = 0;
    for (int i = first; i < end; ++i) {
      if (described >> (i - first) & 1) continue;
      uint32_t same = 0;
      for (int j = i; j < end; ++j) {
        if (SameSite(lanes_[j].site, lanes_[i].site)) same |= 1u << (j - first);
      }
      described |= same;
      text << "  warp " << first / 32 << ", lanes " << LaneRanges(same) << ": " << lanes_[i].site
           << '\n';
    }
  }
  return text.str();
}

}  // namespace tessera::simt
