#pragma once

#include <string>

namespace tessera {

// Tells the service manager that started us what state we are in, e.g. "READY=1" or "STOPPING=1"
// (sd_notify(3)). No effect without one: where NOTIFY_SOCKET is not set, or cannot be written to.
void NotifySupervisor(const std::string& state);

}  // namespace tessera
