#pragma once

#include <sstream>
#include <string>

// CHECK(condition) << "why it matters" aborts the process with file, line and message: for bugs and
// device faults only. What a client or a file can cause is a Status (base/status.h).

namespace tessera {

// Collects the message of a failed check and aborts when it dies.
class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* condition);
  CheckFailure(const CheckFailure&) = delete;
  CheckFailure& operator=(const CheckFailure&) = delete;
  [[noreturn]] ~CheckFailure();

  std::ostream& stream() { return message_; }

 private:
  std::ostringstream message_;
};

// Gives the two arms of CHECK's conditional the same type, void.
struct CheckVoidify {
  void operator&(const std::ostream&) const {}
};

}  // namespace tessera

#define CHECK(condition)                    \
  (condition) ? static_cast<void>(0)        \
              : ::tessera::CheckVoidify() & \
                    ::tessera::CheckFailure(__FILE__, __LINE__, #condition).stream()

#define CHECK_EQ(a, b) CHECK((a) == (b)) << "got " << (a) << " and " << (b) << " "
#define CHECK_LT(a, b) CHECK((a) < (b)) << "got " << (a) << " and " << (b) << " "
#define CHECK_LE(a, b) CHECK((a) <= (b)) << "got " << (a) << " and " << (b) << " "
#define CHECK_GE(a, b) CHECK((a) >= (b)) << "got " << (a) << " and " << (b) << " "
#define CHECK_GT(a, b) CHECK((a) > (b)) << "got " << (a) << " and " << (b) << " "
