#include "server/options.h"

#include <CLI/CLI.hpp>
#include <cctype>
#include <cstdlib>
#include <limits>
#include <utility>

#include "server/no_throw.h"
#include "server/version.h"

namespace tessera {
namespace {

// gRPC keeps metadata keys in lower case, and "-bin" values are not text.
std::string CheckMetadataKey(const std::string& key) {
  const bool valid =
      !key.empty() &&
      key.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_.-") == std::string::npos;
  const bool is_binary = key.size() >= 4 && key.compare(key.size() - 4, 4, "-bin") == 0;
  if (valid && !is_binary) return "";
  return "expected a metadata key of a-z, 0-9, '_', '.', '-' that does not end in -bin, got \"" +
         key + "\"";
}

std::string CheckDevice(const std::string& device) {
  if (device == "auto" || device == "cpu" || device.rfind("cuda:", 0) == 0) return "";
  return "expected auto, cpu or cuda:N, got \"" + device + "\"";
}

std::string CheckDrainTimeout(const std::string& text) {
  char* end = nullptr;
  const double seconds = std::strtod(text.c_str(), &end);
  const bool is_number = !text.empty() && *end == '\0';
  if (is_number && seconds >= 0.0 && seconds <= 86400.0) return "";  // NaN fails
  return "expected 0 to 86400 seconds, got \"" + text + "\"";
}

std::string CheckAddress(const std::string& text) {
  const absl::StatusOr<HostPort> address = ParseHostPort(text);
  return address.ok() ? "" : std::string(address.status().message());
}

// Adds options to one group of the help. Every option also reads an environment variable:
// --max-running is TESSERA_MAX_RUNNING.
class OptionGroup {
 public:
  OptionGroup(CLI::App* app, std::string name) : app_(app), name_(std::move(name)) {}

  template <typename T>
  CLI::Option* Add(const std::string& flag, T* value, const std::string& help) {
    return Finish(flag, app_->add_option("--" + flag, *value, help)->capture_default_str());
  }

  CLI::Option* AddSwitch(const std::string& flag, bool* value, const std::string& help) {
    return Finish(flag, app_->add_flag("--" + flag, *value, help));
  }

 private:
  CLI::Option* Finish(const std::string& flag, CLI::Option* option) {
    std::string variable = "TESSERA_" + flag;
    for (char& c : variable) c = c == '-' ? '_' : static_cast<char>(std::toupper(c));
    return option->envname(variable)->group(name_);
  }

  CLI::App* const app_;
  const std::string name_;
};

// What the command line holds in another form than ServerOptions.
struct RawOptions {
  std::string listen;
  std::string metrics_listen;
  bool no_prefix_cache = false;
  bool reflection = false;
  bool no_reflection = false;
};

void AddModelOptions(CLI::App* app, ServerOptions* options) {
  OptionGroup group(app, "Model and compute");
  group.Add("model", &options->model_path, "GGUF file to serve")->required();
  group.Add("served-model-name", &options->served_model_name,
            "name in answers and metrics; default: the name in the file");
  group.Add("device", &options->device, "auto, cpu or cuda:N")->check(CheckDevice);
  group.Add("cpu-isa", &options->cpu_isa, "instruction set; all give the same bits")
      ->check(CLI::IsMember({"auto", "avx2", "avx512", "vnni", "portable"}));
  group.Add("threads", &options->num_threads, "compute threads")
      ->check(CLI::Range(1, 1024))
      ->default_str("one for each usable CPU");
  group
      .Add("gpu-memory-utilization", &options->gpu_memory_utilization,
           "share of a GPU's memory for weights and KV pages; the rest is for activations")
      ->check(CLI::Range(0.05, 1.0));
}

void AddSchedulingOptions(CLI::App* app, ServerOptions* options, RawOptions* raw) {
  OptionGroup group(app, "Scheduling and limits");
  group.Add("max-batch-tokens", &options->max_batch_tokens, "tokens a step computes at most")
      ->check(CLI::Range(1, 1 << 20))
      ->default_str("128 on a CPU, 512 on a GPU; at least max-running");
  group
      .Add("target-itl-ms", &options->target_itl_ms,
           "inter-token latency to keep beside prompts, where twice the usual is less; 0: any")
      ->check(CLI::Range(0.0, 1e6));
  group.Add("max-running", &options->max_running, "sequences that run at once at most")
      ->check(CLI::Range(1, 1 << 16));
  group.Add("max-waiting", &options->max_waiting, "requests that wait at most")
      ->check(CLI::Range(1, 1 << 20));
  group
      .Add("max-waiting-prompt-tokens", &options->max_waiting_prompt_tokens,
           "prompt tokens of all waiting requests at most")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
  group.Add("kv-blocks", &options->num_kv_pages, "KV pages of 64 tokens")
      ->check(CLI::Range(1, 1 << 24))
      ->default_str("chosen from max-running");
  group.Add("max-context", &options->max_context, "tokens of a sequence at most")
      ->check(CLI::Range(2, 1 << 24))
      ->default_str("the model's own");
  group.AddSwitch("no-prefix-cache", &raw->no_prefix_cache, "do not reuse computed prefixes");
  group
      .Add("speculate", &options->speculate,
           "none, or ngram: guess what repeats, where it pays; never changes an answer")
      ->check(CLI::IsMember({"none", "ngram"}));
}

void AddListenerOptions(CLI::App* app, ServerOptions* options, RawOptions* raw) {
  raw->listen = options->listen.ToString();
  raw->metrics_listen = options->metrics_listen.ToString();
  OptionGroup group(app, "Listeners");
  group.Add("listen", &raw->listen, "HOST:PORT for gRPC; port 0: any free one")
      ->check(CheckAddress);
  group
      .Add("metrics-listen", &raw->metrics_listen,
           "HOST:PORT for /metrics, /healthz, /readyz and the status page; port 0: any free one")
      ->check(CheckAddress);
  group.Add("announce", &options->announce_path,
            "once ready, write the addresses to this file as JSON");
  group.Add("max-message-bytes", &options->max_message_bytes, "largest gRPC message, either way")
      ->check(CLI::Range(1 << 10, 1 << 30));
  group.Add("max-connections", &options->max_connections, "gRPC connections open at once at most")
      ->check(CLI::Range(1, 1 << 20));
  group.Add("control-listen", &options->control_listen,
            "HOST:PORT or unix:PATH for the control service alone; default: beside the others, or "
            "nowhere with --api-keys");
  group.AddSwitch("load-reports", &options->load_reports,
                  "end answers with ORCA load reports for load balancers");
  CLI::Option* const on = group.AddSwitch("reflection", &raw->reflection,
                                          "describe the services to clients also with --api-keys");
  group.AddSwitch("no-reflection", &raw->no_reflection, "do not describe the services to clients")
      ->excludes(on);
}

void AddSecurityOptions(CLI::App* app, ServerOptions* options) {
  OptionGroup group(app, "Security");
  CLI::Option* const certificate = group.Add("tls-cert", &options->tls_certificate_path,
                                             "PEM certificate chain; default: plaintext");
  CLI::Option* const key =
      group.Add("tls-key", &options->tls_key_path, "PEM private key of --tls-cert");
  certificate->needs(key);
  key->needs(certificate);
  group
      .Add("tls-client-ca", &options->tls_client_ca_path,
           "PEM certificates that must have signed every client's; default: clients need none")
      ->needs(certificate);
  group.Add("api-keys", &options->api_keys_path,
            "file of keys, tenants and quotas, read again on SIGHUP; default: everybody may call");
  group
      .Add("trust-tenant-metadata", &options->tenant_metadata_key,
           "call metadata key that names the tenant, set by a proxy you trust; default: one tenant")
      ->check(CheckMetadataKey);
}

void AddOperationOptions(CLI::App* app, ServerOptions* options) {
  OptionGroup group(app, "Operation");
  group
      .Add("drain-timeout", &options->drain_timeout_seconds,
           "seconds that open requests may take to finish after SIGTERM")
      ->check(CheckDrainTimeout);
  group
      .Add("otlp-endpoint", &options->otlp_endpoint,
           "HOST:PORT of a collector that takes spans over OTLP/gRPC; default: none")
      ->check(CheckAddress);
  group.Add("log-format", &options->log_format, "text or json")
      ->check(CLI::IsMember({"text", "json"}));
  group.Add("log-level", &options->log_level, "least severity that is logged")
      ->check(CLI::IsMember({"debug", "info", "warn", "error"}));
  app->set_config("--config", "", "TOML file of options");
  app->allow_config_extras(CLI::config_extras_mode::error);
}

void Apply(const RawOptions& raw, ServerOptions* options) {
  options->listen = ParseHostPort(raw.listen).value();
  options->metrics_listen = ParseHostPort(raw.metrics_listen).value();
  options->prefix_cache = !raw.no_prefix_cache;
  if (raw.reflection || raw.no_reflection) options->reflection = raw.reflection;
}

}  // namespace

std::variant<ServerOptions, int> ParseOptions(int argc, const char* const* argv) {
  ServerOptions options;
  RawOptions raw;
  CLI::App app("tesserad serves one language model over gRPC.", "tesserad");
  app.set_version_flag("--version", std::string(kTesseraVersion));
  app.failure_message(CLI::FailureMessage::simple);
  AddModelOptions(&app, &options);
  AddSchedulingOptions(&app, &options, &raw);
  AddListenerOptions(&app, &options, &raw);
  AddSecurityOptions(&app, &options);
  AddOperationOptions(&app, &options);

  int exit_status = 0;
  const bool parsed = CatchAs<CLI::ParseError>(
      [&] { app.parse(argc, argv); },
      [&](const CLI::ParseError& error) { exit_status = app.exit(error) == 0 ? 0 : 1; });
  if (!parsed) return exit_status;
  Apply(raw, &options);
  return options;
}

}  // namespace tessera
