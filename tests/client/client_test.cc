#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <set>

#include "client/bench.h"
#include "client/generate.h"
#include "client/json_output.h"
#include "client/load.h"
#include "client/options.h"
#include "tests/support/temp_file.h"

namespace tessera {
namespace {

// The exit code, or -1 to go on.
int Parse(std::vector<std::string> arguments, Options* options) {
  arguments.insert(arguments.begin(), "tessera");
  std::vector<char*> argv;
  argv.reserve(arguments.size());
  for (std::string& argument : arguments) argv.push_back(argument.data());
  return ParseOptions(static_cast<int>(argv.size()), argv.data(), options).value_or(-1);
}

TEST(ClientOptionsTest, UnsetFlagsAreNotSent) {
  Options options;
  ASSERT_EQ(Parse({"generate", "--prompt", "hi"}, &options), -1);
  v1::GenerateRequest request;
  ASSERT_TRUE(BuildGenerateRequest(options.generate, &request));
  v1::GenerateRequest expected;
  expected.set_text("hi");
  expected.mutable_sampling();
  expected.mutable_stop();
  EXPECT_EQ(request.SerializeAsString(), expected.SerializeAsString());
}

TEST(ClientOptionsTest, EveryFlagReachesTheRequest) {
  Options options;
  ASSERT_EQ(Parse({"generate",
                   "--prompt-ids",
                   "1,2,3",
                   "--max-tokens",
                   "5",
                   "--min-tokens",
                   "2",
                   "--temperature",
                   "0.5",
                   "--top-k",
                   "-1",
                   "--top-p",
                   "0.9",
                   "--min-p",
                   "0.1",
                   "--repetition-penalty",
                   "1.1",
                   "--frequency-penalty",
                   "0.2",
                   "--presence-penalty",
                   "-0.3",
                   "--seed",
                   "18446744073709551615",
                   "--stop",
                   "a",
                   "--stop",
                   "b,c",
                   "--stop-token-id",
                   "7",
                   "--logit-bias",
                   "5:-1.5",
                   "--logprobs",
                   "3",
                   "--prompt-logprobs",
                   "0",
                   "--echo",
                   "--n",
                   "2",
                   "--priority",
                   "-4",
                   "--ignore-eos",
                   "--tenant",
                   "t",
                   "--deadline",
                   "2.5",
                   "--json"},
                  &options),
            -1);
  v1::GenerateRequest request;
  ASSERT_TRUE(BuildGenerateRequest(options.generate, &request));
  EXPECT_EQ(request.token_ids().ids_size(), 3);
  EXPECT_EQ(request.stop().max_tokens(), 5u);
  EXPECT_EQ(request.stop().min_tokens(), 2u);
  EXPECT_EQ(request.sampling().temperature(), 0.5f);
  EXPECT_EQ(request.sampling().top_k(), -1);
  EXPECT_EQ(request.sampling().top_p(), 0.9f);
  EXPECT_EQ(request.sampling().min_p(), 0.1f);
  EXPECT_EQ(request.sampling().repetition_penalty(), 1.1f);
  EXPECT_EQ(request.sampling().frequency_penalty(), 0.2f);
  EXPECT_EQ(request.sampling().presence_penalty(), -0.3f);
  EXPECT_EQ(request.sampling().seed(), std::numeric_limits<uint64_t>::max());
  ASSERT_EQ(request.stop().stop_strings_size(), 2);
  EXPECT_EQ(request.stop().stop_strings(1), "b,c");
  EXPECT_EQ(request.stop().stop_token_ids(0), 7);
  EXPECT_EQ(request.sampling().logit_bias().at(5), -1.5f);
  EXPECT_EQ(request.logprobs(), 3u);
  EXPECT_TRUE(request.has_prompt_logprobs());
  EXPECT_TRUE(request.echo());
  EXPECT_EQ(request.n(), 2u);
  EXPECT_EQ(request.priority(), -4);
  EXPECT_TRUE(request.stop().ignore_eos());
  EXPECT_EQ(options.connection.tenant, "t");
  EXPECT_EQ(options.connection.deadline_seconds, 2.5);
  EXPECT_TRUE(options.json);
}

TEST(ClientOptionsTest, RefusesWhatItCannotSend) {
  Options options;
  EXPECT_GT(Parse({"generate"}, &options), 0) << "no prompt";
  EXPECT_GT(Parse({"generate", "--prompt", "a", "--prompt-ids", "1"}, &options), 0);
  EXPECT_GT(Parse({"generate", "--prompt", "a", "--logit-bias", "5"}, &options), 0);
  EXPECT_GT(Parse({"bench", "--goodput", "speed:3"}, &options), 0);
  EXPECT_GT(Parse({}, &options), 0);
}

// gRPC would abort on them.
TEST(ClientOptionsTest, RefusesMetadataThatGrpcCannotSend) {
  Options options;
  EXPECT_GT(Parse({"info", "--tenant", "Zo\xC3\xAB"}, &options), 0);
  EXPECT_GT(Parse({"info", "--tenant", "a\nb"}, &options), 0);
  EXPECT_GT(Parse({"info", "--tenant-metadata", "X-Tenant"}, &options), 0);
  EXPECT_GT(Parse({"info", "--tenant-metadata", ""}, &options), 0);
  EXPECT_GT(Parse({"info", "--api-key-file", TempFile("two\nlines\n").path()}, &options), 0);
  EXPECT_GT(Parse({"info", "--api-key-file", TempFile("\n").path()}, &options), 0);
  ASSERT_EQ(Parse({"info", "--api-key-file", TempFile("a key\r\n").path()}, &options), -1);
  EXPECT_EQ(options.connection.api_key, "a key");
}

TEST(ClientOptionsTest, BenchTakesTheSpellingsOfVllmBench) {
  Options options;
  ASSERT_EQ(Parse({"bench", "--num-prompts", "9", "--max-concurrency", "3", "--random-input-len",
                   "11", "--random-output-len", "12", "--random-range-ratio", "0.5",
                   "--random-prefix-len", "4", "--goodput", "ttft:100", "itl:20"},
                  &options),
            -1);
  EXPECT_EQ(options.bench.num_requests, 9);
  EXPECT_EQ(options.bench.concurrency, 3);
  EXPECT_EQ(options.bench.input_tokens, 11);
  EXPECT_EQ(options.bench.output_tokens, 12);
  EXPECT_EQ(options.bench.length_range, 0.5);
  EXPECT_EQ(options.bench.shared_prefix_tokens, 4);
  EXPECT_EQ(options.bench.goodput_ms.at("itl"), 20);
}

TEST(JsonOutputTest, NineDigitsNameEveryFloat) {
  for (const float value : {-0.1f, 1.0f / 3, -16.635532f, 1e-30f, 3.4e38f, -0.0f}) {
    EXPECT_EQ(static_cast<float>(NineDigits(value)), value);
  }
  EXPECT_EQ(Json(NineDigits(-0.1f)).dump(), "-0.100000001");
}

v1::GenerateResponse MakeResponse(int num_outputs) {
  v1::GenerateResponse response;
  response.set_fingerprint("f");
  for (int i = 0; i < num_outputs; ++i) {
    v1::Output* output = response.add_outputs();
    output->set_index(i);
    output->set_text("t");
    output->add_token_ids(5);
    output->set_seed(9007199254740991);
    output->set_finish_reason(v1::FINISH_REASON_LENGTH);
    v1::TokenLogprob* entry = output->add_logprobs()->add_entries();
    entry->set_token_id(5);
    entry->set_logprob(-0.25f);
    entry->set_token("\xE2\x82");  // the first two bytes of a three-byte character
  }
  return response;
}

TEST(JsonOutputTest, OneSequenceIsFlatAndSeveralAreAnArray) {
  const Json one = GenerationToJson(MakeResponse(1));
  EXPECT_EQ(one["text"], "t");
  EXPECT_EQ(one["seed"], 9007199254740991u);
  EXPECT_EQ(one["finish_reason"], "length");
  EXPECT_EQ(one["logprobs"][0][0]["logprob"], -0.25);
  EXPECT_FALSE(one.dump().empty()) << "a partial character must not break the output";
  const Json two = GenerationToJson(MakeResponse(2));
  EXPECT_EQ(two["outputs"].size(), 2u);
  EXPECT_EQ(two["fingerprint"], "f");
}

TEST(PercentileTest, IsTheNearestRank) {
  std::vector<double> values;
  for (int i = 100; i >= 1; --i) values.push_back(i);
  EXPECT_EQ(Percentile(values, 50), 50);
  EXPECT_EQ(Percentile(values, 99), 99);
  EXPECT_EQ(Percentile(values, 100), 100);
  EXPECT_EQ(Percentile({7}, 1), 7);
  EXPECT_EQ(Percentile({}, 50), 0);
}

TEST(LoadTest, IsReproducibleAndKeepsToItsBounds) {
  BenchOptions options;
  options.num_requests = 200;
  options.input_tokens = 40;
  options.output_tokens = 10;
  options.length_range = 0.5;
  options.shared_prefix_tokens = 6;
  const std::vector<LoadRequest> load = MakeLoad(options, 256, 1000);
  const std::vector<LoadRequest> again = MakeLoad(options, 256, 1000);
  std::set<size_t> lengths;
  for (size_t i = 0; i < load.size(); ++i) {
    EXPECT_EQ(load[i].prompt_ids, again[i].prompt_ids);
    EXPECT_TRUE(std::equal(load[0].prompt_ids.begin(), load[0].prompt_ids.begin() + 6,
                           load[i].prompt_ids.begin()));
    EXPECT_GE(load[i].prompt_ids.size(), 26u);
    EXPECT_LE(load[i].prompt_ids.size(), 66u);
    EXPECT_GE(load[i].output_tokens, 5u);
    EXPECT_LE(load[i].output_tokens, 15u);
    lengths.insert(load[i].prompt_ids.size());
    for (const int32_t id : load[i].prompt_ids) EXPECT_TRUE(id >= 256 && id < 1000);
  }
  EXPECT_GT(lengths.size(), 20u);
}

TEST(LoadTest, OtherSeedsShareThePrefixAlone) {
  BenchOptions options;
  options.num_requests = 1;
  options.input_tokens = 40;
  options.shared_prefix_tokens = 6;
  const std::vector<int32_t> one = MakeLoad(options, 256, 1000)[0].prompt_ids;
  options.seed = 1;
  const std::vector<int32_t> other = MakeLoad(options, 256, 1000)[0].prompt_ids;
  EXPECT_TRUE(std::equal(one.begin(), one.begin() + 6, other.begin()));
  EXPECT_NE(one, other);
}

TEST(LoadTest, PoissonArrivalsKeepTheRate) {
  BenchOptions options;
  options.num_requests = 4000;
  options.request_rate = 50;
  const double seconds = MakeLoad(options, 256, 1000).back().arrival.count();
  // 4,000 exponential gaps: the mean's standard deviation is 1.6 %; five of them.
  EXPECT_NEAR(seconds, 80, 80 * 0.08);
}

TEST(SummaryTest, CountsFailuresAndGoodput) {
  BenchOptions options;
  options.goodput_ms = {{"ttft", 10}};
  const std::vector<LoadRequest> load(3);
  std::vector<LoadResult> results(3);
  results[0].ttft_ms = 5;
  results[0].output_tokens = 30;
  results[0].itl_ms = {1, 2, 3};
  results[1].ttft_ms = 15;
  results[1].output_tokens = 10;
  results[2].status = "RESOURCE_EXHAUSTED";
  const Json summary = SummarizeLoad(options, load, results, 2.0);
  EXPECT_EQ(summary["num_ok"], 2);
  EXPECT_EQ(summary["num_failed"], 1);
  EXPECT_EQ(summary["output_tokens_per_second"], 20.0);
  EXPECT_EQ(summary["goodput_requests_per_second"], 0.5);
  EXPECT_EQ(summary["statuses"]["RESOURCE_EXHAUSTED"], 1);
  EXPECT_EQ(summary["itl_ms"]["p50"], 2.0);
}

}  // namespace
}  // namespace tessera
