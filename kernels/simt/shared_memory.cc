#include "kernels/simt/shared_memory.h"

#include <cstdlib>
#include <cstring>

#include "base/check.h"
#include "kernels/simt/fiber.h"

namespace tessera::simt {
namespace {

constexpr char kPoison = static_cast<char>(0xFF);
constexpr size_t kAlignment = 1024;

void Forbid([[maybe_unused]] char* begin, [[maybe_unused]] size_t bytes) {
#ifdef TESSERA_SIMT_ASAN
  ASAN_POISON_MEMORY_REGION(begin, bytes);
#endif
}

void Allow([[maybe_unused]] char* begin, [[maybe_unused]] size_t bytes) {
#ifdef TESSERA_SIMT_ASAN
  ASAN_UNPOISON_MEMORY_REGION(begin, bytes);
#endif
}

size_t RoundUp(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

SharedMemory::SharedMemory()
    : memory_(static_cast<char*>(std::aligned_alloc(kAlignment, RoundUp(kCapacity, kAlignment)))) {
  CHECK(memory_ != nullptr);
  std::memset(memory_, kPoison, kCapacity);
  Forbid(memory_, kCapacity);
}

SharedMemory::~SharedMemory() {
  Allow(memory_, kCapacity);
  std::free(memory_);
}

void SharedMemory::Reset(size_t dynamic_bytes) {
  const size_t used_end = kDynamicOffset + dynamic_bytes_ + kGuardBytes;
  Allow(memory_, kCapacity);
  std::memset(memory_, kPoison, static_end_ + kGuardBytes);
  std::memset(dynamic() - kGuardBytes, kPoison, used_end - kDynamicOffset + kGuardBytes);
  Forbid(memory_, kCapacity);
  Allow(dynamic(), dynamic_bytes);
  num_statics_ = 0;
  static_end_ = 0;
  dynamic_bytes_ = dynamic_bytes;
}

void* SharedMemory::Static(const void* tag, size_t bytes, size_t alignment) {
  for (int i = 0; i < num_statics_; ++i) {
    if (statics_[i].tag == tag) return memory_ + statics_[i].begin;
  }
  const size_t begin = RoundUp(static_end_ + kGuardBytes, alignment < 16 ? 16 : alignment);
  CHECK_LT(num_statics_, kMaxStatics) << "static shared objects in one kernel";
  CHECK_LE(begin + bytes + 2 * kGuardBytes, kStaticCapacity) << "bytes of static shared memory";
  statics_[num_statics_++] = {tag, begin, bytes};
  static_end_ = begin + bytes;
  Allow(memory_ + begin, bytes);
  return memory_ + begin;
}

bool SharedMemory::Contains(const void* begin, size_t bytes) const {
  const char* first = static_cast<const char*>(begin);
  if (first < memory_) return false;
  const size_t offset = static_cast<size_t>(first - memory_);
  if (offset >= kDynamicOffset) return offset + bytes <= kDynamicOffset + dynamic_bytes_;
  for (int i = 0; i < num_statics_; ++i) {
    const Object& object = statics_[i];
    if (offset >= object.begin && offset + bytes <= object.begin + object.bytes) return true;
  }
  return false;
}

std::string SharedMemory::CheckGap(size_t begin, size_t end, const std::string& after) const {
  Allow(memory_ + begin, end - begin);
  size_t at = begin;
  while (at < end && memory_[at] == kPoison) ++at;
  Forbid(memory_ + begin, end - begin);
  if (at == end) return "";
  return "a store out of bounds, " + std::to_string(at - begin) + " bytes past the end of " + after;
}

std::string SharedMemory::FindOverwrittenGuard() const {
  size_t begin = 0;
  std::string after = "nothing (before the first static shared object)";
  for (int i = 0; i < num_statics_; ++i) {
    std::string found = CheckGap(begin, statics_[i].begin, after);
    if (!found.empty()) return found;
    begin = statics_[i].begin + statics_[i].bytes;
    after = "a static shared object of " + std::to_string(statics_[i].bytes) + " bytes";
  }
  std::string found = CheckGap(begin, begin + kGuardBytes, after);
  if (!found.empty()) return found;
  found = CheckGap(kDynamicOffset - kGuardBytes, kDynamicOffset,
                   "the static shared memory (before dynamic shared memory)");
  if (!found.empty()) return found;
  const size_t dynamic_end = kDynamicOffset + dynamic_bytes_;
  return CheckGap(dynamic_end, dynamic_end + kGuardBytes,
                  "dynamic shared memory of " + std::to_string(dynamic_bytes_) + " bytes");
}

}  // namespace tessera::simt
