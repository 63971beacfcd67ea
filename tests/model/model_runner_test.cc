#include "model/model_runner.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>

#include "base/check.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/kernels/backend_cases.h"
#include "tests/model/load_runner.h"
#include "tests/model/step_harness.h"
#include "tests/support/temp_file.h"
#include "tests/support/tiny_model.h"

namespace tessera {
namespace {

using testing::Each;
using testing::HasSubstr;

constexpr TinyModelOptions kTinyOptions = {.type = DType::kQ4_1,
                                           .embedding_type = DType::kQ8_0,
                                           .hidden_dim = 128,
                                           .num_heads = 4,
                                           .num_kv_heads = 2,
                                           .head_dim = 64,
                                           .ffn_dim = 160,
                                           .max_context = 256};
const ModelRunnerOptions kRunnerOptions = {
    .max_batch_tokens = 256, .max_running = 8, .num_pages = 24};

std::unique_ptr<ModelRunner> LoadBytes(std::string_view bytes, std::unique_ptr<Backend> backend,
                                       const ModelRunnerOptions& options = kRunnerOptions) {
  return LoadRunner(bytes, std::move(backend), options);
}

absl::Status LoadStatus(const ModelRunnerOptions& options) {
  const TempFile path(MakeTinyModel(kTinyOptions));
  const auto file = GgufFile::Open(path.path());
  CHECK(file.ok()) << file.status();
  return ModelRunner::Load(**file, MakeReferenceBackend(), options).status();
}

constexpr TokenId kBrokenToken = 3;  // of BrokenModel; in no prompt

std::vector<TokenId> Prompt(int num_tokens, uint32_t seed) {
  return SomeTokens(num_tokens, kBrokenToken + 1, kMinTinyVocab, seed);
}

// Four sequences of different lengths and ways to sample; the last three use every penalty.
std::vector<Job> MixedJobs() {
  SamplingParams sampled;
  sampled.temperature = 0.9f;
  sampled.top_p = 0.95f;
  sampled.seed = 17;
  SamplingParams penalised = sampled;
  penalised.repetition_penalty = 1.2f;
  penalised.frequency_penalty = 0.3f;
  penalised.presence_penalty = 0.2f;
  penalised.seed = 18;
  SamplingParams greedy;
  greedy.temperature = 0;
  return {{.prompt = Prompt(5, 1), .params = sampled, .num_tokens = 12},
          {.prompt = Prompt(100, 2), .params = penalised, .num_tokens = 9, .scores_prompt = true},
          {.prompt = Prompt(64, 3), .params = greedy, .num_tokens = 20},
          {.prompt = Prompt(33, 4), .params = penalised, .num_tokens = 20}};
}

std::vector<std::string> RunAlone(Executor* executor, const std::vector<Job>& jobs) {
  std::vector<std::string> bits;
  for (const Job& job : jobs) {
    const JobOutput output = RunJob(executor, job);
    EXPECT_EQ(output.tokens.size(), static_cast<size_t>(job.num_tokens));
    EXPECT_THAT(output.statuses, Each(TokenStatus::kOk));
    bits.push_back(output.Digest());
  }
  return bits;
}

void ExpectSame(Executor* executor, const std::vector<Job>& jobs,
                const std::vector<std::string>& alone, int first_slot = 0) {
  const std::vector<JobOutput> outputs = RunJobs(executor, jobs, first_slot);
  for (size_t i = 0; i < jobs.size(); ++i) {
    EXPECT_EQ(outputs[i].Digest(), alone[i]) << "job " << i;
  }
}

class ModelRunnerTest : public testing::TestWithParam<BackendCase> {
 protected:
  std::unique_ptr<ModelRunner> runner_ = LoadBytes(MakeTinyModel(kTinyOptions), GetParam().make());
};

TEST_P(ModelRunnerTest, AJobsBitsDoNotDependOnTheCircumstances) {
  std::vector<Job> jobs = MixedJobs();
  const std::vector<std::string> alone = RunAlone(runner_.get(), jobs);
  {
    SCOPED_TRACE("all at once, in other slots");
    ExpectSame(runner_.get(), jobs, alone, /*first_slot=*/3);
  }
  for (size_t i = 0; i < jobs.size(); ++i) {
    jobs[i].first_step = static_cast<int>(3 * i);
    jobs[i].chunk = static_cast<int>(7 + 10 * i);
  }
  {
    SCOPED_TRACE("joining one by one, in chunks");
    ExpectSame(runner_.get(), jobs, alone);
  }
  for (size_t i = 0; i < jobs.size(); ++i) jobs[i].preempt_after = static_cast<int>(2 + i);
  {
    SCOPED_TRACE("preempted and recomputed");
    ExpectSame(runner_.get(), jobs, alone);
  }
}

// Some guesses are wrong, so that drafts are accepted, rejected, and rejected with those after
// them.
TEST_P(ModelRunnerTest, DraftsChangeNoBit) {
  std::vector<Job> jobs = MixedJobs();
  std::vector<std::string> alone;
  for (Job& job : jobs) {
    const JobOutput output = RunJob(runner_.get(), job);
    alone.push_back(output.Digest());
    job.guesses = output.tokens;
    for (size_t i = 4; i < job.guesses.size(); i += 5) job.guesses[i] ^= 1;
  }
  for (const int num_drafts : {1, 3, 8}) {
    SCOPED_TRACE(num_drafts);
    for (Job& job : jobs) job.drafts_a_step = num_drafts;
    ExpectSame(runner_.get(), jobs, alone, /*first_slot=*/2);
  }
}

TEST_P(ModelRunnerTest, PromptScoresAreThoseOfTheTokensGiven) {
  Job scored = MixedJobs()[1];
  const JobOutput output = RunJob(runner_.get(), scored);
  ASSERT_EQ(output.prompt_logprobs.size(), scored.prompt.size() - 1);
  for (size_t i = 0; i < output.prompt_logprobs.size(); ++i) {
    const auto& logprobs = output.prompt_logprobs[i];
    EXPECT_GE(logprobs.size(), 5u);
    const auto is_own = [&](const ScoredToken& s) { return s.token == scored.prompt[i + 1]; };
    EXPECT_EQ(std::count_if(logprobs.begin(), logprobs.end(), is_own), 1) << "position " << i + 1;
  }
  scored.chunk = 9;
  EXPECT_EQ(RunJob(runner_.get(), scored).Digest(), output.Digest());
}

// A sequence that takes its first 100 tokens' pages from another: one whole, one by copy.
TEST_P(ModelRunnerTest, ACopiedPageServesAsTheOriginal) {
  const std::vector<TokenId> prompt = Prompt(120, 5);
  const SamplingParams params;
  const std::vector<PageId> original = {4, 9};
  const std::vector<PageId> copied = {4, 2};
  const auto sample_last = [&](StepDraft draft, int32_t row) {
    draft.AddSlotStart({.params = &params, .tokens = prompt, .prompt_length = 120});
    SampleRequest request;
    request.row = row;
    request.position = 120;
    request.num_logprobs = 20;
    request.wants_logprob = true;
    draft.AddSample(request);
    const StepResult result = runner_->Wait(runner_->Launch(draft.Input()));
    JobOutput output;
    output.tokens = {result.tokens[0].token};
    output.logprobs.emplace_back(result.tokens[0].logprobs.begin(),
                                 result.tokens[0].logprobs.end());
    return output.Digest();
  };
  StepDraft whole;
  whole.AddSequence(prompt, 120, original);
  const std::string expected = sample_last(whole, 119);

  const std::vector<PageId> stale = {2};  // the copy's page has held other tokens
  StepDraft other;
  other.AddSequence(Prompt(64, 8), 64, stale);
  runner_->Wait(runner_->Launch(other.Input()));
  StepDraft reused;
  reused.AddCopy({.from = 9, .to = 2, .num_tokens = 36});
  reused.AddSequence(std::span(prompt).subspan(100), 120, copied);
  EXPECT_EQ(sample_last(reused, 19), expected);
}

TEST_P(ModelRunnerTest, ForksOfOneRowSampleAsTheirSeedsSay) {
  SamplingParams params[2];
  params[0].seed = 5;
  params[1].seed = 6;
  const std::vector<TokenId> prompt = Prompt(40, 6);
  const std::vector<PageId> pages = {0};
  StepDraft draft;
  const int32_t first_row = draft.AddSequence(prompt, 40, pages);
  for (int32_t slot : {0, 1}) {
    draft.AddSlotStart(
        {.slot = slot, .params = &params[slot], .tokens = prompt, .prompt_length = 40});
    SampleRequest request;
    request.row = first_row + 39;
    request.slot = slot;
    request.position = 40;
    draft.AddSample(request);
  }
  const StepResult result = runner_->Wait(runner_->Launch(draft.Input()));
  const std::vector<SampledToken> forks(result.tokens.begin(), result.tokens.end());
  for (size_t slot : {0, 1}) {
    const Job single = {.prompt = prompt, .params = params[slot], .num_tokens = 1};
    EXPECT_EQ(forks[slot].token, RunJob(runner_.get(), single).tokens.front());
  }
  EXPECT_NE(forks[0].token, forks[1].token) << "the seeds were chosen so that they differ";
}

// A model whose embedding of kBrokenToken is not a number.
std::string BrokenModel() {
  TinyModelOptions options = kTinyOptions;
  options.embedding_type = DType::kF32;
  options.is_tied = false;
  std::string bytes = MakeTinyModel(options);
  const TempFile path(bytes);
  const auto file = GgufFile::Open(path.path());
  CHECK(file.ok()) << file.status();
  const GgufTensor& table = *(*file)->FindTensor("token_embd.weight");
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const size_t row_bytes = RowBytes(DType::kF32, options.hidden_dim);
  std::memcpy(&bytes[table.file_offset + kBrokenToken * row_bytes], &nan, sizeof(nan));
  return bytes;
}

TEST_P(ModelRunnerTest, ANonFiniteRowEndsItsOwnSequenceAlone) {
  runner_ = LoadBytes(BrokenModel(), GetParam().make());
  std::vector<Job> jobs = MixedJobs();
  const std::vector<std::string> alone = RunAlone(runner_.get(), jobs);
  Job broken = jobs[0];
  broken.prompt = Prompt(90, 7);
  broken.scores_prompt = true;
  broken.prompt[70] = kBrokenToken;
  const JobOutput whole = RunJob(runner_.get(), broken);
  EXPECT_THAT(whole.statuses, testing::ElementsAre(TokenStatus::kNonFiniteLogits));
  for (size_t i = 0; i < whole.prompt_statuses.size(); ++i) {
    // Element i scores token i + 1 from the tokens up to i.
    const auto expected = i < 70 ? TokenStatus::kOk : TokenStatus::kNonFiniteLogits;
    EXPECT_EQ(whole.prompt_statuses[i], expected) << "token " << i + 1;
  }
  broken.chunk = 11;  // the broken row and the last are then in different steps
  EXPECT_EQ(RunJob(runner_.get(), broken).Digest(), whole.Digest());
  jobs.push_back(broken);
  const std::vector<JobOutput> together = RunJobs(runner_.get(), jobs);
  for (size_t i = 0; i < alone.size(); ++i) EXPECT_EQ(together[i].Digest(), alone[i]) << i;
  EXPECT_EQ(together.back().Digest(), whole.Digest());
  ExpectSame(runner_.get(), MixedJobs(), alone);  // in pages that the broken one has left
}

INSTANTIATE_TEST_SUITE_P(Backends, ModelRunnerTest, testing::ValuesIn(TestedCases()),
                         [](const auto& param_info) { return param_info.param.name; });

TEST(ModelRunnerLoadTest, EveryCpuPathGivesTheSameBitsAndFingerprint) {
  std::vector<std::string> expected;
  std::string fingerprint;
  for (const BackendCase& backend_case : CpuCases()) {
    SCOPED_TRACE(backend_case.name);
    const auto runner = LoadBytes(MakeTinyModel(kTinyOptions), backend_case.make());
    const std::vector<std::string> bits = RunAlone(runner.get(), MixedJobs());
    if (expected.empty()) {
      expected = bits;
      fingerprint = runner->fingerprint();
    }
    EXPECT_EQ(bits, expected);
    EXPECT_EQ(runner->fingerprint(), fingerprint);
  }
  EXPECT_THAT(fingerprint, testing::StartsWith("n1-cpu-kvf16-"));
}

TEST(ModelRunnerLoadTest, TheFingerprintTellsWeightsApart) {
  TinyModelOptions other = kTinyOptions;
  other.seed = 2;
  const auto a = LoadBytes(MakeTinyModel(kTinyOptions), MakeReferenceBackend());
  const auto b = LoadBytes(MakeTinyModel(other), MakeReferenceBackend());
  EXPECT_NE(a->fingerprint(), b->fingerprint());
}

TEST(ModelRunnerLoadTest, LimitsAreTheOptionsOrTheModels) {
  const auto runner = LoadBytes(MakeTinyModel(kTinyOptions), MakeReferenceBackend());
  EXPECT_EQ(runner->limits().max_context, 256) << "the model's";
  EXPECT_EQ(runner->limits().num_pages, 24);
  EXPECT_EQ(runner->limits().max_batch_tokens, 256);
  EXPECT_EQ(runner->limits().max_samples, 256);
  EXPECT_EQ(runner->limits().vocab_size, 320);
  const auto chosen = LoadBytes(MakeTinyModel(kTinyOptions), MakeReferenceBackend(),
                                {.max_batch_tokens = 4, .max_running = 6, .max_context = 130});
  EXPECT_EQ(chosen->limits().max_context, 130);
  EXPECT_EQ(chosen->limits().num_pages, 6 * 3) << "what six contexts of 130 can use";
  EXPECT_EQ(chosen->limits().max_samples, 6) << "forks may share a row";
}

TEST(ModelRunnerLoadTest, RefusesOptionsOutOfRange) {
  const std::pair<ModelRunnerOptions, const char*> cases[] = {
      {{.max_batch_tokens = 0}, "max_batch_tokens: expected 1 to 65536, got 0"},
      {{.max_running = -1}, "max_running: expected 1 to 16384, got -1"},
      {{.max_context = 257}, "max_context: expected 0 to 256, got 257"},
      {{.num_pages = -5}, "num_pages: expected 0 to 16777216, got -5"},
  };
  for (const auto& [options, message] : cases) {
    const absl::Status status = LoadStatus(options);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
}

TEST(ModelRunnerLoadTest, PagesTakeWhatTheDeviceHasLeft) {
  const uint64_t page_bytes = KvCache::PageBytes(
      *MakeReferenceBackend(), {.num_kv_heads = kTinyOptions.num_kv_heads, .head_dim = 64},
      kTinyOptions.num_layers);
  uint64_t left = 7 * page_bytes + 1;
  const auto runner = LoadBytes(MakeTinyModel(kTinyOptions), MakeReferenceBackend(),
                                {.device_bytes_for_pages = [&] { return left; }});
  EXPECT_EQ(runner->limits().num_pages, 7);
  left = page_bytes - 1;
  const absl::Status status = LoadStatus({.device_bytes_for_pages = [&] { return left; }});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("enough for 0 pages"));
}

TEST(ModelRunnerLoadTest, APoolBeyondTheMachinesMemoryIsAStatus) {
  const absl::Status status = LoadStatus({.num_pages = 1 << 24});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("expected memory for 16777216 pages"));
}

}  // namespace
}  // namespace tessera
