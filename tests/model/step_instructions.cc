// Runs one step of a model with SmolLM2-135M's layers under callgrind's eyes, so that what it costs
// can be counted in instructions: the same number on a busy machine as on an idle one.
//
//   valgrind --tool=callgrind --instr-atstart=no step_instructions decode|prefill
//
// decode: one row at position 512; prefill: 512 rows. One thread; valgrind's CPU has AVX2 at most.

#include <valgrind/callgrind.h>

#include <cstdio>
#include <cstring>
#include <numeric>

#include "model/model_runner.h"
#include "tests/model/load_runner.h"
#include "tests/model/step_harness.h"
#include "tests/support/tiny_model.h"

namespace tessera {
namespace {

constexpr int kPromptLength = 512;
constexpr int kNumPages = kPromptLength / 64 + 1;

// 2 of its 30 layers, and about as large a part of its vocabulary.
std::unique_ptr<ModelRunner> LoadModel() {
  return LoadRunner(MakeTinyModel({.type = DType::kQ4_1,
                                   .embedding_type = DType::kQ8_0,
                                   .num_layers = 2,
                                   .hidden_dim = 576,
                                   .num_heads = 9,
                                   .num_kv_heads = 3,
                                   .head_dim = 64,
                                   .ffn_dim = 1536,
                                   .max_context = 1024,
                                   .vocab_size = 4096}),
                    MakeCpuBackend({.num_threads = 1}),
                    {.max_batch_tokens = 512, .max_running = 1, .num_pages = 16});
}

// The rows of `tokens` from `first` on; the last one chooses greedily.
void RunStep(ModelRunner* runner, std::span<const TokenId> tokens, int first) {
  static const SamplingParams kGreedy = {.temperature = 0.0f, .logit_bias = {}};
  std::vector<PageId> pages(kNumPages);
  std::iota(pages.begin(), pages.end(), 0);
  const int kv_length = static_cast<int>(tokens.size());
  StepDraft draft;
  draft.AddSlotStart({.slot = 0, .params = &kGreedy, .tokens = tokens, .prompt_length = kv_length});
  const int32_t row = draft.AddSequence(tokens.subspan(first), kv_length, pages);
  draft.AddSample(
      {.row = row + kv_length - first - 1, .slot = 0, .position = kv_length, .banned = {}});
  const StepInput input = draft.Input();
  CALLGRIND_START_INSTRUMENTATION;
  runner->Wait(runner->Launch(input));
  CALLGRIND_STOP_INSTRUMENTATION;
}

// The decode's keys and values are zeros: what they are changes no instruction's count.
void CountStep(bool is_prefill) {
  const std::unique_ptr<ModelRunner> runner = LoadModel();
  const std::vector<TokenId> tokens = SomeTokens(kPromptLength + 1, 3, 280, 1);
  if (is_prefill) {
    RunStep(runner.get(), std::span(tokens).first(kPromptLength), 0);
  } else {
    RunStep(runner.get(), tokens, kPromptLength);
  }
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  const char* const step = argc == 2 ? argv[1] : "";
  if (std::strcmp(step, "decode") != 0 && std::strcmp(step, "prefill") != 0) {
    std::fprintf(stderr, "usage: step_instructions decode|prefill\n");
    return 1;
  }
  tessera::CountStep(std::strcmp(step, "prefill") == 0);
  return 0;
}
