#include "server/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <vector>

namespace tessera {
namespace {

using testing::HasSubstr;

std::variant<ServerOptions, int> Parse(std::vector<const char*> flags) {
  flags.insert(flags.begin(), "tesserad");
  return ParseOptions(static_cast<int>(flags.size()), flags.data());
}

ServerOptions ParseValid(const std::vector<const char*>& flags) {
  const auto parsed = Parse(flags);
  EXPECT_TRUE(std::holds_alternative<ServerOptions>(parsed));
  return std::holds_alternative<ServerOptions>(parsed) ? std::get<ServerOptions>(parsed)
                                                       : ServerOptions();
}

TEST(OptionsTest, DefaultsAndFlags) {
  const ServerOptions defaults = ParseValid({"--model", "m.gguf"});
  EXPECT_EQ(defaults.model_path, "m.gguf");
  EXPECT_EQ(defaults.listen.ToString(), "127.0.0.1:50051");
  EXPECT_TRUE(defaults.prefix_cache);
  EXPECT_FALSE(defaults.reflection.has_value()) << "on, unless there are keys";
  EXPECT_EQ(defaults.num_threads, 0);

  const ServerOptions options = ParseValid({"--model",
                                            "m",
                                            "--listen",
                                            "[::1]:0",
                                            "--metrics-listen",
                                            "0.0.0.0:9",
                                            "--announce",
                                            "a",
                                            "--threads",
                                            "2",
                                            "--cpu-isa",
                                            "portable",
                                            "--max-batch-tokens",
                                            "16",
                                            "--target-itl-ms",
                                            "12.5",
                                            "--max-running",
                                            "3",
                                            "--max-waiting",
                                            "4",
                                            "--kv-blocks",
                                            "5",
                                            "--max-context",
                                            "6",
                                            "--no-prefix-cache",
                                            "--speculate",
                                            "ngram",
                                            "--served-model-name",
                                            "s",
                                            "--device",
                                            "cpu",
                                            "--trust-tenant-metadata",
                                            "x-tenant",
                                            "--drain-timeout",
                                            "1.5",
                                            "--log-format",
                                            "json"});
  EXPECT_EQ(options.listen.host, "::1");
  EXPECT_EQ(options.listen.port, 0);
  EXPECT_EQ(options.metrics_listen.ToString(), "0.0.0.0:9");
  EXPECT_EQ(options.announce_path, "a");
  EXPECT_EQ(options.num_threads, 2);
  EXPECT_EQ(options.cpu_isa, "portable");
  EXPECT_EQ(options.max_batch_tokens, 16);
  EXPECT_EQ(options.target_itl_ms, 12.5);
  EXPECT_EQ(options.max_running, 3);
  EXPECT_EQ(options.max_waiting, 4);
  EXPECT_EQ(options.num_kv_pages, 5);
  EXPECT_EQ(options.max_context, 6);
  EXPECT_FALSE(options.prefix_cache);
  EXPECT_EQ(options.speculate, "ngram");
  EXPECT_EQ(options.served_model_name, "s");
  EXPECT_EQ(options.device, "cpu");
  EXPECT_EQ(options.tenant_metadata_key, "x-tenant");
  EXPECT_EQ(options.drain_timeout_seconds, 1.5);
  EXPECT_EQ(options.log_format, "json");
}

TEST(OptionsTest, FlagsBeatTheFileWhichBeatsTheEnvironment) {
  const std::string path = testing::TempDir() + "/tessera-options.toml";
  std::ofstream(path) << "max-running = 20\nmax-waiting = 20\nno-prefix-cache = true\n";
  setenv("TESSERA_MAX_RUNNING", "30", 1);  // NOLINT(concurrency-mt-unsafe)
  setenv("TESSERA_MAX_WAITING", "30", 1);  // NOLINT(concurrency-mt-unsafe)
  setenv("TESSERA_MAX_CONTEXT", "30", 1);  // NOLINT(concurrency-mt-unsafe)
  const ServerOptions options =
      ParseValid({"--model", "m", "--config", path.c_str(), "--max-running", "10"});
  for (const char* name : {"TESSERA_MAX_RUNNING", "TESSERA_MAX_WAITING", "TESSERA_MAX_CONTEXT"}) {
    unsetenv(name);  // NOLINT(concurrency-mt-unsafe)
  }
  EXPECT_EQ(options.max_running, 10);
  EXPECT_EQ(options.max_waiting, 20);
  EXPECT_EQ(options.max_context, 30);
  EXPECT_FALSE(options.prefix_cache);
}

TEST(OptionsTest, RefusesUnknownNamesInTheFile) {
  const std::string path = testing::TempDir() + "/tessera-misspelt.toml";
  std::ofstream(path) << "max-runnin = 20\n";
  testing::internal::CaptureStderr();
  const auto parsed = Parse({"--model", "m", "--config", path.c_str()});
  EXPECT_TRUE(std::holds_alternative<int>(parsed));
  EXPECT_THAT(testing::internal::GetCapturedStderr(), testing::HasSubstr("max-runnin"));
}

TEST(OptionsTest, BadFlagsExitWithOneAndSayWhy) {
  const std::vector<std::vector<const char*>> bad = {
      {},
      {"--model", "m", "--listen", "nowhere"},
      {"--model", "m", "--listen", "1.2.3.4:99999"},
      {"--model", "m", "--threads", "-1"},
      {"--model", "m", "--threads", "two"},
      {"--model", "m", "--kv-blocks", "0"},
      {"--model", "m", "--kv-blocks", "99999999999999"},
      {"--model", "m", "--device", "tpu"},
      {"--model", "m", "--gpu-memory-utilization", "1.5"},
      {"--model", "m", "--cpu-isa", "sse"},
      {"--model", "m", "--log-format", "xml"},
      {"--model", "m", "--drain-timeout", "-1"},
      {"--model", "m", "--drain-timeout", "nan"},
      {"--model", "m", "--trust-tenant-metadata", "X Tenant"},
      {"--model", "m", "--trust-tenant-metadata", "tenant-bin"},
      {"--model", "m", "--no-such-flag"},
      {"--model", "m", "--config", "/nonexistent.toml"},
  };
  for (const std::vector<const char*>& flags : bad) {
    testing::internal::CaptureStderr();
    const auto parsed = Parse(flags);
    const std::string said = testing::internal::GetCapturedStderr();
    const std::string last = flags.empty() ? "--model" : flags[flags.size() - 2];
    ASSERT_TRUE(std::holds_alternative<int>(parsed)) << last;
    EXPECT_EQ(std::get<int>(parsed), 1);
    EXPECT_FALSE(said.empty()) << last;
  }
}

TEST(OptionsTest, HelpNamesEveryFixedFlagAndExitsWithZero) {
  testing::internal::CaptureStdout();
  const auto parsed = Parse({"--help"});
  const std::string help = testing::internal::GetCapturedStdout();
  EXPECT_EQ(std::get<int>(parsed), 0);
  for (const char* flag : {"--model", "--listen", "--metrics-listen", "--announce", "--threads",
                           "--cpu-isa", "--max-batch-tokens", "--target-itl-ms", "--max-running",
                           "--max-waiting", "--kv-blocks", "--max-context", "--no-prefix-cache",
                           "--served-model-name", "--device", "--trust-tenant-metadata"}) {
    EXPECT_THAT(help, HasSubstr(flag));
  }
}

}  // namespace
}  // namespace tessera
