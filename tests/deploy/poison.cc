// Loaded into a daemon by LD_PRELOAD, this plants a bug: the daemon aborts once it has read the
// bytes "TESSERA-POISON" from a connection.

#include <dlfcn.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace {

constexpr char kPoison[] = "TESSERA-POISON";

void AbortIfPoisoned(const msghdr& message, size_t size) {
  for (size_t i = 0; i < message.msg_iovlen && size > 0; ++i) {
    const iovec& part = message.msg_iov[i];
    const size_t held = std::min(size, part.iov_len);
    if (memmem(part.iov_base, held, kPoison, sizeof kPoison - 1) != nullptr) std::abort();
    size -= held;
  }
}

}  // namespace

// What gRPC reads its sockets with, in front of the C library's.
extern "C" ssize_t recvmsg(int fd, msghdr* message, int flags) {
  using Recvmsg = ssize_t (*)(int, msghdr*, int);
  static const auto next = reinterpret_cast<Recvmsg>(dlsym(RTLD_NEXT, "recvmsg"));
  const ssize_t size = next(fd, message, flags);
  if (size > 0) AbortIfPoisoned(*message, static_cast<size_t>(size));
  return size;
}
