#include "client/options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <fstream>
#include <iterator>

namespace tessera {
namespace {

constexpr size_t kMaxFileBytes = size_t{1} << 20;

// gRPC aborts on metadata that it cannot send ("Custom-Metadata" in its protocol over HTTP/2).
bool IsMetadataValue(const std::string& value) {
  return std::ranges::all_of(value, [](char c) { return c >= ' ' && c <= '~'; });
}

// What these return is the flag's error, empty for none.
std::string CheckTenant(const std::string& tenant) {
  return IsMetadataValue(tenant) ? "" : "expected printable ASCII on one line";
}

std::string CheckMetadataKey(const std::string& key) {
  const bool is_key = !key.empty() && std::ranges::all_of(key, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
  });
  return is_key ? "" : "expected lower-case letters, digits, '-', '_' and '.', got '" + key + "'";
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string contents(std::istreambuf_iterator<char>(file), {});
  if (file.bad() || contents.empty() || contents.size() > kMaxFileBytes) {
    throw CLI::ValidationError("expected a file of 1 byte to 1 MiB, got " + path);
  }
  return contents;
}

// Without the line end of a file written with an editor.
std::string ReadApiKey(const std::string& path) {
  std::string key = ReadFile(path);
  key.erase(key.find_last_not_of("\r\n") + 1);
  if (key.empty() || !IsMetadataValue(key)) {
    throw CLI::ValidationError("--api-key-file: expected one line of printable ASCII in " + path);
  }
  return key;
}

// A flag that names a file and takes what `read` makes of it.
void AddFile(CLI::App* app, const std::string& flag, std::string* contents, const std::string& help,
             std::string (*read)(const std::string& path) = ReadFile) {
  const auto take = [contents, read](const std::string& path) { *contents = read(path); };
  app->add_option_function<std::string>(flag, take, help)->check(CLI::ExistingFile);
}

void AddSecurityFlags(CLI::App* app, ConnectionOptions* connection) {
  AddFile(app, "--api-key-file", &connection->api_key, "File with the API key", ReadApiKey);
  AddFile(app, "--tls-ca", &connection->tls_authorities,
          "PEM certificates to check the daemon's against; default: plaintext");
  AddFile(app, "--tls-cert", &connection->tls_certificate, "PEM certificate chain to present");
  AddFile(app, "--tls-key", &connection->tls_key, "PEM private key of --tls-cert");
}

void AddConnectionFlags(CLI::App* app, Options* options) {
  ConnectionOptions& connection = options->connection;
  app->add_option("--target", connection.target, "Daemon's HOST:PORT")->capture_default_str();
  app->add_option("--deadline", connection.deadline_seconds, "Seconds a call may take");
  app->add_option("--tenant", connection.tenant, "Tenant, sent as metadata")->check(CheckTenant);
  app->add_option("--tenant-metadata", connection.tenant_metadata, "Metadata key of the tenant")
      ->check(CheckMetadataKey)
      ->capture_default_str();
  AddSecurityFlags(app, &connection);
  app->add_flag("--json", options->json, "Print one JSON object");
}

// "ID:BIAS" pairs; CLI11 reports what this returns as the flag's error.
std::string ParseLogitBias(const std::vector<std::string>& pairs, std::map<int32_t, float>* bias) {
  for (const std::string& pair : pairs) {
    int32_t id = 0;
    float value = 0;
    const size_t colon = pair.find(':');
    if (colon == std::string::npos || !CLI::detail::lexical_cast(pair.substr(0, colon), id) ||
        !CLI::detail::lexical_cast(pair.substr(colon + 1), value)) {
      return "--logit-bias: expected ID:BIAS, got " + pair;
    }
    (*bias)[id] = value;
  }
  return {};
}

void AddPromptFlags(CLI::App* app, GenerateOptions* generate) {
  CLI::Option_group* prompt = app->add_option_group("prompt");
  prompt->add_option("--prompt", generate->prompt, "Text to go on from");
  prompt->add_option("--prompt-file", generate->prompt_file, "File with that text")
      ->check(CLI::ExistingFile);
  prompt->add_option("--prompt-ids", generate->prompt_ids, "Token ids, comma-separated")
      ->delimiter(',');
  prompt->require_option(1);
  app->add_flag("--parse-special", generate->parse_special,
                "Special tokens in the text are parsed as such");
  app->add_flag("--echo", generate->echo, "Begin the text with the prompt");
}

void AddSamplingFlags(CLI::App* app, GenerateOptions* generate) {
  app->add_option("--temperature", generate->temperature);
  app->add_option("--top-k", generate->top_k);
  app->add_option("--top-p", generate->top_p);
  app->add_option("--min-p", generate->min_p);
  app->add_option("--repetition-penalty", generate->repetition_penalty);
  app->add_option("--frequency-penalty", generate->frequency_penalty);
  app->add_option("--presence-penalty", generate->presence_penalty);
  app->add_option("--seed", generate->seed);
  app->add_option("--n", generate->n, "Sequences to generate");
  app->add_option("--logprobs", generate->logprobs, "Log-probabilities of the top K tokens");
  app->add_option("--prompt-logprobs", generate->prompt_logprobs, "Likewise for the prompt");
  app->add_option("--priority", generate->priority, "Lower values run first");
  app->add_option_function<std::vector<std::string>>(
         "--logit-bias",
         [generate](const std::vector<std::string>& pairs) {
           const std::string error = ParseLogitBias(pairs, &generate->logit_bias);
           if (!error.empty()) throw CLI::ValidationError(error);
         },
         "ID:BIAS, may be repeated")
      ->allow_extra_args(false);
}

void AddStopFlags(CLI::App* app, GenerateOptions* generate) {
  app->add_option("--max-tokens", generate->max_tokens);
  app->add_option("--min-tokens", generate->min_tokens);
  app->add_option("--stop", generate->stop_strings, "Stop string, may be repeated")
      ->allow_extra_args(false);
  app->add_option("--stop-token-id", generate->stop_token_ids, "May be repeated")
      ->allow_extra_args(false);
  app->add_flag("--ignore-eos", generate->ignore_eos);
  app->add_flag("--include-stop", generate->include_stop_string, "Keep the matched stop string");
}

void AddBenchFlags(CLI::App* app, BenchOptions* bench) {
  app->add_option("--num-requests,--num-prompts", bench->num_requests)
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app->add_option("--concurrency,--max-concurrency", bench->concurrency)
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app->add_option("--request-rate", bench->request_rate,
                  "Poisson arrivals a second; 0: a closed loop of --concurrency")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app->add_option("--input-len,--random-input-len", bench->input_tokens)
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app->add_option("--output-len,--random-output-len", bench->output_tokens)
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app->add_option("--range-ratio,--random-range-ratio", bench->length_range,
                  "Lengths vary by this share, uniformly")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app->add_option("--prefix-len,--random-prefix-len", bench->shared_prefix_tokens,
                  "Tokens that all prompts begin with, whatever the seed")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app->add_option("--seed", bench->seed, "Of prompts, lengths and arrivals")->capture_default_str();
  app->add_flag("--sampled", bench->sampled, "Temperature 1 instead of greedy");
  app->add_option_function<std::vector<std::string>>(
      "--goodput",
      [bench](const std::vector<std::string>& limits) {
        for (const std::string& limit : limits) {
          const size_t colon = limit.find(':');
          const std::string metric = limit.substr(0, colon);
          double value = 0;
          if (colon == std::string::npos ||
              (metric != "ttft" && metric != "itl" && metric != "e2e") ||
              !CLI::detail::lexical_cast(limit.substr(colon + 1), value)) {
            throw CLI::ValidationError("--goodput: expected ttft:MS, itl:MS or e2e:MS, got " +
                                       limit);
          }
          bench->goodput_ms[metric] = value;
        }
      },
      "Count requests within these limits: ttft:MS itl:MS e2e:MS");
}

CLI::App* AddCommand(CLI::App* app, const char* name, const char* help, Command command,
                     Options* options) {
  CLI::App* sub = app->add_subcommand(name, help);
  sub->callback([options, command] { options->command = command; });
  AddConnectionFlags(sub, options);
  return sub;
}

void AddCommands(CLI::App* app, Options* options) {
  CLI::App* generate = AddCommand(app, "generate", "Generate text", Command::kGenerate, options);
  AddPromptFlags(generate, &options->generate);
  AddSamplingFlags(generate, &options->generate);
  AddStopFlags(generate, &options->generate);

  CLI::App* tokenize =
      AddCommand(app, "tokenize", "Text to token ids", Command::kTokenize, options);
  tokenize->add_option("--text", options->text)->required();
  tokenize->add_flag("--parse-special", options->parse_special);

  CLI::App* detokenize =
      AddCommand(app, "detokenize", "Token ids to text", Command::kDetokenize, options);
  detokenize->add_option("--ids", options->token_ids)->delimiter(',')->required();

  AddCommand(app, "info", "What the daemon serves", Command::kInfo, options);

  CLI::App* explain =
      AddCommand(app, "explain", "What runs, what waits and why", Command::kExplain, options);
  explain->add_option("--request-id", options->request_id);

  CLI::App* abort = AddCommand(app, "abort", "End a request", Command::kAbort, options);
  abort->add_option("--request-id", options->request_id)->required();

  CLI::App* drain = AddCommand(app, "drain", "Finish what runs and exit", Command::kDrain, options);
  drain->add_option("--timeout", options->drain_timeout_seconds, "Seconds");

  CLI::App* bench = AddCommand(app, "bench", "Load generator", Command::kBench, options);
  AddBenchFlags(bench, &options->bench);
}

}  // namespace

std::optional<int> ParseOptions(int argc, char** argv, Options* options) {
  CLI::App app("Client of the Tessera serving daemon", "tessera");
  app.require_subcommand(1);
  AddCommands(&app, options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  }
  return std::nullopt;
}

}  // namespace tessera
