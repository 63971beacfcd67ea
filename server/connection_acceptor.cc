#include "server/connection_acceptor.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace tessera {
namespace {

// Descriptors that come and go beside connections: pages being served, files being read.
constexpr int kOtherFds = 64;
constexpr int kPauseMs = 20;  // where the system itself has run out of something

absl::Status CannotListen(const HostPort& address, const std::string& why) {
  return absl::UnavailableError(
      absl::StrCat("listen: cannot listen on ", address.ToString(), ": ", why));
}

int ListenOn(const addrinfo& info) {
  const int fd =
      socket(info.ai_family, info.ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, info.ai_protocol);
  if (fd < 0) return -1;
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(fd, info.ai_addr, info.ai_addrlen) == 0 && listen(fd, SOMAXCONN) == 0) return fd;
  const int error = errno;
  close(fd);
  errno = error;
  return -1;
}

int BoundPort(int fd) {
  sockaddr_storage bound = {};
  socklen_t size = sizeof bound;
  CHECK_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size), 0);
  char port[NI_MAXSERV];
  CHECK_EQ(getnameinfo(reinterpret_cast<sockaddr*>(&bound), size, nullptr, 0, port, sizeof port,
                       NI_NUMERICSERV),
           0);
  return std::atoi(port);
}

int LowestFreeFd() {
  const int fd = fcntl(0, F_DUPFD_CLOEXEC, 0);
  if (fd >= 0) close(fd);
  return fd < 0 ? 0 : fd;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ConnectionAcceptor>> ConnectionAcceptor::Listen(
    const HostPort& address, int max_connections) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int error =
      getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &found);
  if (error != 0) return CannotListen(address, gai_strerror(error));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, &freeaddrinfo);
  const int fd = ListenOn(*found);
  if (fd < 0) return CannotListen(address, std::generic_category().message(errno));
  return std::unique_ptr<ConnectionAcceptor>(
      new ConnectionAcceptor(fd, {address.host, BoundPort(fd)}, max_connections));
}

ConnectionAcceptor::ConnectionAcceptor(int listen_fd, const HostPort& address, int max_connections)
    : listen_fd_(listen_fd),
      stop_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      address_(address),
      fd_limit_(LowestFreeFd() + kOtherFds + max_connections) {
  CHECK_GE(stop_fd_, 0);
}

ConnectionAcceptor::~ConnectionAcceptor() {
  Stop();
  close(stop_fd_);
}

void ConnectionAcceptor::Start(
    std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> server) {
  server_ = std::move(server);
  thread_ = std::thread([this] { AcceptUntilStopped(); });
}

// Closing the socket makes the system refuse connections, which clients and proxies try elsewhere;
// else it would go on completing some that nobody serves.
void ConnectionAcceptor::Stop() {
  if (thread_.joinable()) {
    const uint64_t one = 1;
    CHECK_EQ(write(stop_fd_, &one, sizeof one), static_cast<ssize_t>(sizeof one));
    thread_.join();
  }
  if (listen_fd_ >= 0) close(std::exchange(listen_fd_, -1));
}

void ConnectionAcceptor::AcceptUntilStopped() {
  pollfd events[] = {{stop_fd_, POLLIN, 0}, {listen_fd_, POLLIN, 0}};
  while (true) {
    if (poll(events, 2, -1) < 0) continue;
    if (events[0].revents != 0) return;
    AcceptAll();
  }
}

void ConnectionAcceptor::AcceptAll() {
  while (true) {
    const int fd = accept4(listen_fd_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
      const bool is_exhausted = errno == EMFILE || errno == ENFILE || errno == ENOBUFS;
      if (is_exhausted) poll(nullptr, 0, kPauseMs);
      return;
    }
    if (fd >= fd_limit_) {
      close(fd);
      continue;
    }
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
    connection.listener_fd = listen_fd_;
    connection.fd = fd;
    server_->HandleNewConnection(&connection);
  }
}

}  // namespace tessera
