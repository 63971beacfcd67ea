#include "server/options.h"

#include <CLI/CLI.hpp>
#include <cctype>
#include <cstdlib>
#include <limits>
#include <utility>
#include <vector>

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
// --max-running is TESSERA_MAX_RUNNING. scripts/make-flags-table writes the guide's tables from the
// help.
class OptionGroup {
 public:
  OptionGroup(CLI::App* app, std::string name) : app_(app), name_(std::move(name)) {}

  // The unit says what the option takes, in capitals.
  template <typename T>
  CLI::Option* Add(const std::string& flag, const std::string& unit, T* value,
                   const std::string& help) {
    CLI::Option* const option = app_->add_option("--" + flag, *value, help);
    return Finish(flag, option->type_name(unit)->capture_default_str());
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

std::vector<std::string> CpuIsaNames() {
  std::vector<std::string> names;
  for (const CpuIsaName& known : kCpuIsaNames) names.emplace_back(known.name);
  return names;
}

void AddModelOptions(CLI::App* app, ServerOptions* options) {
  OptionGroup group(app, "Model and compute");
  group.Add("model", "FILE", &options->model_path, "GGUF file to serve")->required();
  group
      .Add("served-model-name", "NAME", &options->served_model_name,
           "model in answers, label model_name in metrics; a request that names another model gets "
           "NOT_FOUND")
      ->default_str("the file's name for itself");
  group
      .Add("device", "auto|cpu|cuda:N", &options->device,
           "where to compute; auto is the first GPU if it works (compute capability 8.0 or later), "
           "else the CPU")
      ->check(CheckDevice);
  group
      .Add("cpu-isa", "NAME", &options->cpu_isa,
           "instruction set; all give the same bits, portable is slow")
      ->check(CLI::IsMember(CpuIsaNames()));
  group
      .Add("threads", "THREADS", &options->num_threads,
           "that compute; CPU affinity and cgroup quota are respected")
      ->check(CLI::Range(1, 1024))
      ->default_str("one for each usable CPU");
  group
      .Add("gpu-memory-utilization", "SHARE", &options->gpu_memory_utilization,
           "of a GPU's memory for weights and KV pages; the rest is for activations")
      ->check(CLI::Range(0.05, 1.0));
}

void AddStepOptions(CLI::App* app, ServerOptions* options) {
  OptionGroup group(app, "Steps");
  group
      .Add("max-batch-tokens", "TOKENS", &options->max_batch_tokens,
           "that one step computes at most; from 128 on a CPU gains nothing, and a longer step "
           "delays first tokens")
      ->check(CLI::Range(1, 1 << 20))
      ->default_str("128 on a CPU, 512 on a GPU; at least max-running");
  group
      .Add("target-itl-ms", "MILLISECONDS", &options->target_itl_ms,
           "inter-token latency to keep while prompts are computed beside decoding sequences; a "
           "smaller one means steadier streams and later first tokens. A step may always take 2.5 "
           "times what its decodes need, and compute 16 prompt tokens; 0: prompts get all rows")
      ->check(CLI::Range(0.0, 1e6));
  group
      .Add("speculate", "NAME", &options->speculate,
           "ngram: where a sequence's last tokens stood before in it, compute what followed then "
           "as a guess, in the same step; for code, extraction, repetition. No answer changes by a "
           "bit; guesses are made only where the measured step times say that they pay")
      ->check(CLI::IsMember({"none", "ngram"}));
}

void AddQueueOptions(CLI::App* app, ServerOptions* options, RawOptions* raw) {
  OptionGroup group(app, "Queue and KV cache");
  group.Add("max-running", "SEQUENCES", &options->max_running, "that hold KV pages at once")
      ->check(CLI::Range(1, 1 << 16));
  group
      .Add("max-waiting", "REQUESTS", &options->max_waiting,
           "that wait at once; one more gets RESOURCE_EXHAUSTED")
      ->check(CLI::Range(1, 1 << 20));
  group
      .Add("max-waiting-prompt-tokens", "TOKENS", &options->max_waiting_prompt_tokens,
           "in the prompts of all waiting requests; the request with one more gets "
           "RESOURCE_EXHAUSTED")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
  group
      .Add("kv-blocks", "PAGES", &options->num_kv_pages,
           "of the KV cache, 64 tokens each; their memory is taken as they are first used")
      ->check(CLI::Range(1, 1 << 24))
      ->default_str(
          "what max-running full contexts can use, within half the free memory and 4 GiB");
  group
      .Add("max-context", "TOKENS", &options->max_context,
           "of a sequence, prompt and answer together")
      ->check(CLI::Range(2, 1 << 24))
      ->default_str("the model's own");
  group.AddSwitch("no-prefix-cache", &raw->no_prefix_cache,
                  "compute every prompt from its first token");
}

void AddListenerOptions(CLI::App* app, ServerOptions* options, RawOptions* raw) {
  raw->listen = options->listen.ToString();
  raw->metrics_listen = options->metrics_listen.ToString();
  OptionGroup group(app, "Listeners");
  group
      .Add("listen", "HOST:PORT", &raw->listen,
           "gRPC; port 0 takes any free one; an IPv6 host stands in brackets")
      ->check(CheckAddress);
  group
      .Add("metrics-listen", "HOST:PORT", &raw->metrics_listen,
           "HTTP, always plaintext: /metrics, /healthz, /readyz, and the status page at /")
      ->check(CheckAddress);
  group
      .Add("control-listen", "HOST:PORT|unix:PATH", &options->control_listen,
           "where the control service (Abort, Explain, Drain) is served alone, in plaintext and "
           "without keys: a socket's file rights or loopback are its protection")
      ->default_str("beside the other services; with --api-keys nowhere");
  group
      .Add(
          "announce", "FILE", &options->announce_path,
          "once ready, {\"grpc\":\"host:port\",\"metrics\":\"host:port\"} appears there by rename; "
          "an old file is removed at the start")
      ->default_str("none");
  group.AddSwitch("load-reports", &options->load_reports,
                  "end every answer with an ORCA load report (trailer endpoint-load-metrics-bin: "
                  "application_utilization is running and waiting sequences over max-running), for "
                  "load balancers that weigh replicas");
  CLI::Option* const on = group.AddSwitch(
      "reflection", &raw->reflection,
      "describe the services also with --api-keys; without keys they are described");
  group
      .AddSwitch("no-reflection", &raw->no_reflection,
                 "do not describe the services; grpcurl then needs the protos")
      ->excludes(on);
}

void AddConnectionOptions(CLI::App* app, ServerOptions* options) {
  OptionGroup group(app, "Connections");
  group
      .Add("max-message-bytes", "BYTES", &options->max_message_bytes,
           "of the largest gRPC message in either direction")
      ->check(CLI::Range(1 << 20, 1 << 30));
  group
      .Add("max-connections", "CONNECTIONS", &options->max_connections,
           "that gRPC clients may have open, give or take 64; one more is closed at once. As many "
           "descriptors must be allowed, and 256 more")
      ->check(CLI::Range(1, 1 << 20));
  group
      .Add("max-connection-idle", "SECONDS", &options->max_connection_idle_seconds,
           "that a gRPC connection may have no call open; it is closed then, or within as long "
           "again")
      ->check(CLI::Range(1, 1 << 20));
  group
      .Add("max-connection-age", "SECONDS", &options->max_connection_age_seconds,
           "after which, give or take a tenth, clients are told to connect anew; calls that are "
           "open "
           "go on. Clients that balance by themselves look for new replicas only then; 0: never")
      ->check(CLI::Range(0, 1 << 20));
}

void AddSecurityOptions(CLI::App* app, ServerOptions* options) {
  OptionGroup group(app, "Security");
  CLI::Option* const certificate =
      group.Add("tls-cert", "FILE", &options->tls_certificate_path,
                "PEM certificate chain; a changed file is used from the next connection on");
  CLI::Option* const key = group.Add("tls-key", "FILE", &options->tls_key_path,
                                     "its private key, PEM; read again with it");
  certificate->needs(key)->default_str("none: plaintext");
  key->needs(certificate)->default_str("none");
  group
      .Add("tls-client-ca", "FILE", &options->tls_client_ca_path,
           "PEM certificates; every client must then present one that these have signed")
      ->needs(certificate)
      ->default_str("none: clients need no certificate");
  group
      .Add("api-keys", "FILE", &options->api_keys_path,
           "keys, tenants and quotas (docs/security.md); SIGHUP reads it again")
      ->default_str("none: everybody may call");
  group
      .Add("trust-tenant-metadata", "KEY", &options->tenant_metadata_key,
           "call metadata key that names the tenant, e.g. x-tenant-id. Set it only behind a proxy "
           "that sets this key itself: clients are believed")
      ->check(CheckMetadataKey)
      ->default_str("none: one tenant");
}

void AddOperationOptions(CLI::App* app, ServerOptions* options) {
  OptionGroup group(app, "Operation");
  group
      .Add("drain-timeout", "SECONDS", &options->drain_timeout_seconds,
           "that open requests may take after SIGTERM, 0 to 86400")
      ->check(CheckDrainTimeout);
  group
      .Add(
          "otlp-endpoint", "HOST:PORT", &options->otlp_endpoint,
          "collector that takes spans over OTLP/gRPC, plaintext: the call, and in it queue, "
          "prefill and decode. A call's traceparent metadata says whose child it is and whether it "
          "is sampled; without one it begins a trace, unless it is refused")
      ->check(CheckAddress)
      ->default_str("none");
  group.Add("log-format", "NAME", &options->log_format, "of the log lines on stderr")
      ->check(CLI::IsMember({"text", "json"}));
  group.Add("log-level", "NAME", &options->log_level, "least severity that is logged")
      ->check(CLI::IsMember({"debug", "info", "warn", "error"}));
  app->set_config("--config", "", "TOML: name = value for each option, without its dashes")
      ->type_name("FILE")
      ->group("Operation");
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
  AddStepOptions(&app, &options);
  AddQueueOptions(&app, &options, &raw);
  AddListenerOptions(&app, &options, &raw);
  AddConnectionOptions(&app, &options);
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
