#include "server/random.h"

#include <sys/random.h>

#include "absl/strings/str_format.h"
#include "base/check.h"

namespace tessera {

uint64_t RandomBits64() {
  uint64_t bits = 0;
  // Up to 256 bytes come whole once the kernel's pool is ready.
  CHECK(getrandom(&bits, sizeof(bits), 0) == sizeof(bits)) << "getrandom failed";
  return bits;
}

std::string RandomRequestId() {
  return absl::StrFormat("%016x%016x", RandomBits64(), RandomBits64());
}

}  // namespace tessera
