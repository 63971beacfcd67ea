#include <gtest/gtest.h>

#include "model/model_runner.h"
#include "tests/model/load_runner.h"
#include "tests/model/step_harness.h"
#include "tests/support/count_allocations.h"
#include "tests/support/tiny_model.h"

namespace tessera {
namespace {

constexpr int kNumSequences = 4;
constexpr int kPromptLength = 100;

std::unique_ptr<ModelRunner> LoadTinyModel() {
  return LoadRunner(MakeTinyModel({.type = DType::kQ4_1, .embedding_type = DType::kQ8_0}),
                    MakeCpuBackend({.num_threads = 2}),
                    {.max_batch_tokens = 512, .max_running = 4, .num_pages = 16});
}

// Every sequence's rows [kPromptLength + step - num_rows, kPromptLength + step), the last sampled.
StepDraft MakeStep(const std::vector<TokenId>& tokens, const SamplingParams& params, int step,
                   int num_rows) {
  StepDraft draft;
  const int kv_length = kPromptLength + step;
  for (int32_t slot = 0; slot < kNumSequences; ++slot) {
    if (step == 0) {
      draft.AddSlotStart({.slot = slot,
                          .params = &params,
                          .tokens = std::span(tokens).first(kPromptLength),
                          .prompt_length = kPromptLength});
    }
    const PageId pages[] = {4 * slot, 4 * slot + 3, 4 * slot + 1};
    const int32_t first_row = draft.AddSequence(
        std::span(tokens).subspan(kv_length - num_rows, num_rows), kv_length, pages);
    SampleRequest request;
    request.row = first_row + num_rows - 1;
    request.slot = slot;
    request.position = kv_length;
    request.num_logprobs = kMaxLogprobs;
    request.wants_logprob = true;
    draft.AddSample(request);
  }
  return draft;
}

// 4 sequences decode across a page boundary, with penalties and logprobs.
TEST(ModelAllocationTest, ASteadyStateAllocatesNothing) {
  const std::unique_ptr<ModelRunner> runner = LoadTinyModel();
  const std::vector<TokenId> tokens = SomeTokens(kPromptLength + 60, 3, 280, 1);
  SamplingParams params;
  params.repetition_penalty = 1.3f;
  params.top_p = 0.9f;
  params.top_k = 40;
  params.seed = 1;
  const auto run = [&](int step, int num_rows) {
    const StepDraft draft = MakeStep(tokens, params, step, num_rows);
    const int64_t before = NumHeapAllocations();
    runner->Wait(runner->Launch(draft.Input()));
    return NumHeapAllocations() - before;
  };
  EXPECT_GT(run(0, kPromptLength), 0) << "slots start; the kernels' scratch grows to its size";
  run(1, 1);
  for (int step = 2; step < 60; ++step) EXPECT_EQ(run(step, 1), 0) << "step " << step;
}

}  // namespace
}  // namespace tessera
