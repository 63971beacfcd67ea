#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace tessera {

enum class Command : uint8_t {
  kGenerate,
  kTokenize,
  kDetokenize,
  kInfo,
  kExplain,
  kAbort,
  kDrain,
  kBench
};

struct ConnectionOptions {
  std::string target = "127.0.0.1:50051";       // host:port
  std::optional<double> deadline_seconds;       // of each call
  std::string tenant;                           // empty: none sent
  std::string tenant_metadata = "x-tenant-id";  // the key the daemon was told to trust
  std::string api_key;                          // empty: none sent
  // PEM, not paths. Empty authorities: plaintext; empty certificate: none presented.
  std::string tls_authorities;
  std::string tls_certificate;
  std::string tls_key;
};

// Unset values are not sent: the server's defaults apply (docs/sampling.md).
struct GenerateOptions {
  std::string prompt;
  std::string prompt_file;
  std::vector<int32_t> prompt_ids;
  bool parse_special = false;
  std::optional<uint32_t> max_tokens, min_tokens, n, logprobs, prompt_logprobs;
  std::optional<float> temperature, top_p, min_p, repetition_penalty, frequency_penalty,
      presence_penalty;
  std::optional<int32_t> top_k, priority;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop_strings;
  std::vector<int32_t> stop_token_ids;
  std::map<int32_t, float> logit_bias;
  bool echo = false;
  bool ignore_eos = false;
  bool include_stop_string = false;
};

struct BenchOptions {
  int num_requests = 64;
  int concurrency = 8;
  double request_rate = 0;  // requests a second, Poisson arrivals; 0: closed loop
  int input_tokens = 128;
  int output_tokens = 64;
  double length_range = 0;       // lengths uniform in [len (1 - r), len (1 + r)]
  int shared_prefix_tokens = 0;  // the same first tokens in every prompt
  uint64_t seed = 0;
  bool sampled = false;                      // temperature 1 with a seed a request; else greedy
  std::map<std::string, double> goodput_ms;  // limits on ttft, itl (mean), e2e
};

struct Options {
  Command command = Command::kGenerate;
  bool json = false;
  ConnectionOptions connection;
  GenerateOptions generate;
  BenchOptions bench;
  std::string text;
  std::vector<int32_t> token_ids;
  bool parse_special = false;
  std::string request_id;
  std::optional<double> drain_timeout_seconds;
};

// Parses the command line; prints help or what is wrong with it. Returns the exit code to end with,
// or nothing to go on.
std::optional<int> ParseOptions(int argc, char** argv, Options* options);

}  // namespace tessera
