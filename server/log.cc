#include "server/log.h"

#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/no_throw.h"

namespace tessera {
namespace {

std::atomic<bool> log_json{false};

spdlog::level::level_enum ToSpdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarn:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

const char* Name(LogLevel level) {
  constexpr const char* kNames[] = {"debug", "info", "warn", "error"};
  return kNames[static_cast<int>(level)];
}

// Bytes that are not UTF-8 are replaced, since dump would throw.
std::string Dump(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

// Quotes what would break the line or look like another field.
std::string QuoteWhereNeeded(const std::string& value) {
  const bool plain =
      !value.empty() && value.find_first_of(" =\"\\") == std::string::npos &&
      std::all_of(value.begin(), value.end(), [](unsigned char c) { return c > 0x20 && c < 0x7f; });
  return plain ? value : Dump(value);
}

std::string ToText(const LogField& field) {
  if (const auto* text = std::get_if<std::string>(&field.value)) return QuoteWhereNeeded(*text);
  if (const auto* integer = std::get_if<int64_t>(&field.value)) return absl::StrCat(*integer);
  return absl::StrFormat("%.6g", std::get<double>(field.value));
}

void LogGrpc(gpr_log_func_args* args) {
  Log(LogLevel::kError, "grpc", {{"message", std::string(args->message)}});
}

// Protobuf says on stderr that a client's string is not UTF-8; the client is told, the log need not
// be.
void LogProtobuf(google::protobuf::LogLevel, const char*, int, const std::string& message) {
  Log(LogLevel::kDebug, "protobuf", {{"message", message}});
}

}  // namespace

absl::Status InitLog(const std::string& format, const std::string& level) {
  log_json = format == "json";
  gpr_set_log_verbosity(GPR_LOG_SEVERITY_ERROR);
  gpr_set_log_function(LogGrpc);
  google::protobuf::SetLogHandler(LogProtobuf);
  return NoThrow("log", [&] {
    auto logger = std::make_shared<spdlog::logger>(
        "tessera", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    logger->set_pattern(format == "json" ? "%v" : "%Y-%m-%dT%H:%M:%S.%e%z %l %v");
    logger->set_level(spdlog::level::from_str(level));
    spdlog::set_default_logger(std::move(logger));
  });
}

void Log(LogLevel level, const std::string& event, std::initializer_list<LogField> fields) {
  if (!spdlog::should_log(ToSpdlog(level))) return;
  if (!log_json) {
    spdlog::log(ToSpdlog(level), FormatLogText(event, fields));
    return;
  }
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const int64_t unix_ms = std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
  spdlog::log(ToSpdlog(level), FormatLogJson(unix_ms, level, event, fields));
}

std::string FormatLogText(const std::string& event, std::initializer_list<LogField> fields) {
  std::string line = event;
  for (const LogField& field : fields) absl::StrAppend(&line, " ", field.name, "=", ToText(field));
  return line;
}

std::string FormatLogJson(int64_t unix_ms, LogLevel level, const std::string& event,
                          std::initializer_list<LogField> fields) {
  nlohmann::ordered_json line;
  line["ts"] = static_cast<double>(unix_ms) / 1000.0;
  line["level"] = Name(level);
  line["event"] = event;
  for (const LogField& field : fields) {
    std::visit([&](const auto& value) { line[field.name] = value; }, field.value);
  }
  return Dump(line);
}

}  // namespace tessera
