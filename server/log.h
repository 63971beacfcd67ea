#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <variant>

#include "absl/status/status.h"

namespace tessera {

enum class LogLevel : uint8_t { kDebug, kInfo, kWarn, kError };

struct LogField {
  const char* name;
  std::variant<std::string, int64_t, double> value;
};

// Sets up the process's log on stderr: `format` text or json, `level` debug, info, warn or error.
// gRPC's own errors go there too.
absl::Status InitLog(const std::string& format, const std::string& level);

// One line: as text "time LEVEL event name=value ...", as JSON an object with ts, level, event and
// the fields. Never pass prompts or outputs. Thread-safe.
void Log(LogLevel level, const std::string& event, std::initializer_list<LogField> fields = {});

// The line's text after its time and level; apart so that tests can read it.
std::string FormatLogText(const std::string& event, std::initializer_list<LogField> fields);
std::string FormatLogJson(int64_t unix_ms, LogLevel level, const std::string& event,
                          std::initializer_list<LogField> fields);

}  // namespace tessera
