#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>

#include "kernels/backend.h"
#include "server/host_port.h"

namespace tessera {

// The values of --cpu-isa.
struct CpuIsaName {
  const char* name;
  CpuIsa isa;
};
inline constexpr CpuIsaName kCpuIsaNames[] = {
    {"auto", CpuIsa::kAuto},     {"portable", CpuIsa::kPortable}, {"avx2", CpuIsa::kAvx2},
    {"avx512", CpuIsa::kAvx512}, {"vnni", CpuIsa::kAvx512Vnni},   {"amx", CpuIsa::kAmx}};

// What the operator asked for. Defaults here are the daemon's; docs/operations.md lists them.
struct ServerOptions {
  // Model and compute.
  std::string model_path;
  std::string served_model_name;  // empty: the name in the file
  std::string device = "auto";
  std::string cpu_isa = "auto";         // a name of kCpuIsaNames
  int num_threads = 0;                  // 0: every CPU this process may use
  double gpu_memory_utilization = 0.9;  // of the device's memory, for weights and pages

  // Scheduling.
  int max_batch_tokens = 0;      // 0: what suits the device
  double target_itl_ms = 100.0;  // 0: none
  int max_running = 64;
  int max_waiting = 1024;
  int64_t max_waiting_prompt_tokens = int64_t{1} << 20;
  int num_kv_pages = 0;  // 0: what max_running contexts can use, within the memory there is
  int max_context = 0;   // 0: what the model was trained for
  bool prefix_cache = true;
  std::string speculate = "none";

  // Listeners.
  HostPort listen{"127.0.0.1", 50051};
  HostPort metrics_listen{"127.0.0.1", 9090};
  std::string announce_path;  // empty: no file
  int max_message_bytes = 8 << 20;
  int max_connections = 4096;
  int max_connection_idle_seconds = 600;
  int max_connection_age_seconds = 0;  // 0: none
  std::string control_listen;          // empty: beside the other services, unless there are keys
  std::optional<bool> reflection;      // not set: unless there are keys
  bool load_reports = false;
  std::string tls_certificate_path;  // empty: plaintext
  std::string tls_key_path;
  std::string tls_client_ca_path;   // empty: clients need no certificate
  std::string api_keys_path;        // empty: everybody may call
  std::string tenant_metadata_key;  // empty: one tenant

  // Operation.
  double drain_timeout_seconds = 30.0;
  std::string otlp_endpoint;  // empty: no tracing
  std::string log_format = "text";
  std::string log_level = "info";
};

// Reads flags, then a TOML file (--config), then the environment (TESSERA_...); the first that
// names an option wins. Gives an exit status where the program should not go on: it has then
// printed help, the version, or what is wrong.
std::variant<ServerOptions, int> ParseOptions(int argc, const char* const* argv);

}  // namespace tessera
