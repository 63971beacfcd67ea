#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "kernels/cuda/make_backend.h"
#include "kernels/cuda/world.h"
#include "tests/kernels/device_io.h"
#include "tests/support/ragged_step.h"
#include "tests/support/random_decoder.h"

// A whole decoder's steps with nothing but kernels/: on a GPU, or, built with TESSERA_SIMT, on the
// simulated device.
//
//   decoder_step_test micro|tiny|small|llama8b [bf16|fp16]

namespace tessera {
namespace {

struct Setup {
  std::string name;
  DecoderShape shape;
  int prompt_tokens;
  int decoded_tokens;
};

// tiny's prompt ends before attention's split at 1,024 keys, its decoded tokens behind it.
const Setup kSetups[] = {
    {.name = "micro",
     .shape = {.num_layers = 1,
               .hidden_dim = 64,
               .num_heads = 2,
               .kv = {.num_kv_heads = 1, .head_dim = 64},
               .ffn_dim = 96,
               .vocab_size = 160,
               .type = DType::kQ8_0},
     .prompt_tokens = 66,
     .decoded_tokens = 4},
    {.name = "tiny",
     .shape = {.num_layers = 2,
               .hidden_dim = 128,
               .num_heads = 2,
               .kv = {.num_kv_heads = 1, .head_dim = 64},
               .ffn_dim = 192,
               .vocab_size = 320,
               .type = DType::kBf16},
     .prompt_tokens = 1020,
     .decoded_tokens = 8},
    // SmolLM2-135M's.
    {.name = "small",
     .shape = {.num_layers = 30,
               .hidden_dim = 576,
               .num_heads = 9,
               .kv = {.num_kv_heads = 3, .head_dim = 64},
               .ffn_dim = 1536,
               .vocab_size = 49152,
               .type = DType::kQ8_0},
     .prompt_tokens = 2040,
     .decoded_tokens = 16},
    {.name = "llama8b",
     .shape = {.num_layers = 32,
               .hidden_dim = 4096,
               .num_heads = 32,
               .kv = {.num_kv_heads = 8, .head_dim = 128},
               .ffn_dim = 14336,
               .vocab_size = 128256,
               .type = DType::kBf16},
     .prompt_tokens = 2040,
     .decoded_tokens = 16},
};

constexpr int kNumSequences = 4;

// Runs sequences of one decoder. Sequence 0 is the one under test, the others are its neighbours.
class Runner {
 public:
  Runner(Backend* backend, const Setup& setup)
      : backend_(backend), setup_(setup), decoder_(backend, WithRoom(setup), 1) {}

  // The logits of sequence 0's last prompt token and of those after it: the prompt in chunks, the
  // rest one token a step or, recomputed, as a chunk like any other. Neighbours bring `neighbours`
  // tokens a step.
  std::vector<Floats> Run(int chunk, bool recomputes, int neighbours) {
    const int total = setup_.prompt_tokens + setup_.decoded_tokens;
    const int chunked_end = recomputes ? total : setup_.prompt_tokens;
    std::vector<Floats> logits;
    int neighbour_tokens = 0;
    for (int first = 0; first < total;) {
      const int end = first < chunked_end ? std::min(chunked_end, first + chunk) : first + 1;
      RaggedStep step(kNumSequences, PagesEach(setup_), setup_.shape.vocab_size);
      const bool has_neighbours = neighbours > 0 && neighbour_tokens + neighbours <= total;
      const int more = has_neighbours ? neighbours : 0;
      if (more > 0) step.Add(2, neighbour_tokens, neighbour_tokens + more, total);
      step.Add(0, first, end, setup_.prompt_tokens - 1);
      if (more > 0) step.Add(1, neighbour_tokens, neighbour_tokens + more, total);
      neighbour_tokens += more;
      AppendLogits(step.Rows(), &logits);
      first = end;
    }
    return logits;
  }

  struct Choice {
    TokenId token = -1;
    std::vector<std::pair<TokenId, uint32_t>> logprob_bits;

    friend bool operator==(const Choice&, const Choice&) = default;
  };

  // Tokens that sequence 0 chooses after a short prompt, with penalties and noise: counted by the
  // device in a slot, or by the host; as many steps in flight, each of whose rows then is of a
  // token that the host does not know yet.
  std::vector<Choice> Generate(int in_flight, bool is_counted_by_device) {
    std::deque<Generation> steps;
    std::map<TokenId, int32_t> counts;
    std::vector<Choice> choices;
    for (int i = 0; i < kNumGenerated; ++i) {
      Generation& step = steps.emplace_back(PagesEach(setup_), setup_.shape.vocab_size);
      const int end = kShortPrompt + i;
      step.rows.Add(0, i == 0 ? 0 : end - 1, end, end - 1);
      if (i > 0) {
        step.rows.ReplaceLast(in_flight > 1 ? LastTokenOf(kSlot) : choices.back().token);
      } else {
        for (const TokenId token : step.rows.Rows().tokens) counts[token] = 0;
        if (is_counted_by_device) backend_->StartSlot(kSlot, CountList(counts));
      }
      LaunchSample(&step, end, is_counted_by_device, CountList(counts));
      if (i + 1 < in_flight) continue;
      choices.push_back(AwaitChoice(&steps[choices.size()]));
      ++counts[choices.back().token];
    }
    while (choices.size() < steps.size()) choices.push_back(AwaitChoice(&steps[choices.size()]));
    return choices;
  }

  void ReserveSlots() { backend_->ReserveSlots(kSlot + 1, setup_.shape.vocab_size); }

 private:
  static constexpr int kShortPrompt = 20;
  static constexpr int kNumGenerated = 24;
  static constexpr int kNumLogprobs = 3;
  static constexpr int kSlot = 2;

  // A step of which a token is wanted.
  struct Generation {
    Generation(int pages_each, int vocab_size) : rows(kNumSequences, pages_each, vocab_size) {}

    RaggedStep rows;
    std::array<TokenLogprob, kNumLogprobs + 1> logprobs;
    SampleResult result;
  };

  static std::vector<TokenCount> CountList(const std::map<TokenId, int32_t>& counts) {
    std::vector<TokenCount> list;
    list.reserve(counts.size());
    for (const auto& [token, count] : counts) list.push_back({token, count});
    return list;
  }

  void LaunchSample(Generation* step, int position, bool is_counted_by_device,
                    const std::vector<TokenCount>& seen) {
    SamplingParams params;
    params.temperature = 0.5f;
    params.repetition_penalty = 1.1f;
    params.frequency_penalty = 0.6f;
    params.presence_penalty = 0.3f;
    params.seed = 7;
    params.logit_bias = {{3, 5.0f}, {90, 6.0f}, {155, 4.0f}};  // until they were chosen often
    SampleRow row;
    row.params = &params;
    row.position = position;
    row.num_logprobs = kNumLogprobs;
    row.wants_logprob = true;
    if (is_counted_by_device) {
      row.slot = kSlot;
    } else {
      row.seen = seen;
    }
    decoder_.Run(step->rows.Rows());
    step->result.logprobs = step->logprobs;
    backend_->Sample(decoder_.logits(), setup_.shape.vocab_size, {&row, 1}, {&step->result, 1});
    backend_->EndStep();
  }

  Choice AwaitChoice(Generation* step) {
    backend_->AwaitStep();
    Choice choice;
    choice.token = step->result.token;
    for (const TokenLogprob& entry : step->result.logprobs) {
      choice.logprob_bits.emplace_back(entry.token, std::bit_cast<uint32_t>(entry.logprob));
    }
    return choice;
  }

  static int PagesEach(const Setup& setup) {
    return (setup.prompt_tokens + setup.decoded_tokens + kPageTokens - 1) / kPageTokens;
  }

  static DecoderShape WithRoom(const Setup& setup) {
    DecoderShape shape = setup.shape;
    const int total = setup.prompt_tokens + setup.decoded_tokens;
    shape.max_rows = total + 2 * 64;
    shape.max_selected = setup.decoded_tokens + 1;
    shape.max_context = total;
    shape.num_pages = kNumSequences * PagesEach(setup);
    return shape;
  }

  void AppendLogits(const StepRows& rows, std::vector<Floats>* logits) {
    decoder_.Run(rows);
    const auto vocab_size = static_cast<size_t>(setup_.shape.vocab_size);
    Floats all(rows.selected.size() * vocab_size);
    backend_->Download(decoder_.logits(), all.size() * sizeof(float), all.data());
    backend_->Synchronize();
    for (auto row = all.begin(); row != all.end(); row += static_cast<int64_t>(vocab_size)) {
      logits->emplace_back(row, row + static_cast<int64_t>(vocab_size));
    }
  }

  Backend* const backend_;
  const Setup& setup_;
  RandomDecoder decoder_;
};

int num_failures = 0;

void Expect(bool condition, const std::string& what) {
  std::printf("%s %s\n", condition ? "PASS" : "FAIL", what.c_str());
  std::fflush(stdout);
  num_failures += condition ? 0 : 1;
}

bool AreSameBits(const std::vector<Floats>& a, const std::vector<Floats>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::memcmp(a[i].data(), b[i].data(), a[i].size() * sizeof(float)) != 0) return false;
  }
  return true;
}

// Steps no larger than those before take no memory of the device, once graphs are captured of them.
void TestNoAllocations(Runner* runner, const Setup& setup) {
  const auto run = [&] { runner->Run(setup.prompt_tokens / 2, false, 64); };
  run();
  run();
  const size_t free_bytes = TESSERA_CUDA_NAMESPACE::FreeDeviceBytes();
  run();
  Expect(TESSERA_CUDA_NAMESPACE::FreeDeviceBytes() == free_bytes,
         setup.name + ": later steps allocate nothing");
}

// What the device looks up and counts by itself, in steps that are enqueued before the one before
// has run, is what the host would have told it.
void TestStepsInFlight(Runner* runner, const Setup& setup) {
  runner->ReserveSlots();
  const auto expected = runner->Generate(1, false);
  Expect(runner->Generate(1, true) == expected, setup.name + ": counted by the device");
  Expect(runner->Generate(2, true) == expected, setup.name + ": with two steps in flight");
  Expect(runner->Generate(2, true) == expected, setup.name + ": and in a slot used before");
  std::set<TokenId> different;
  for (const auto& choice : expected) different.insert(choice.token);
  Expect(different.size() > 3 && different.size() < expected.size() && *different.begin() >= 0,
         setup.name + ": " + std::to_string(different.size()) + " different tokens of " +
             std::to_string(expected.size()));
}

// However a row comes about, its logits have the same bits.
std::vector<Floats> TestReproducibility(Runner* runner, const Setup& setup) {
  const int whole = setup.prompt_tokens + setup.decoded_tokens;
  std::vector<Floats> alone = runner->Run(whole, false, 0);
  bool is_finite = alone.size() == static_cast<size_t>(setup.decoded_tokens) + 1;
  for (const Floats& row : alone) {
    for (const float logit : row) is_finite = is_finite && std::isfinite(logit);
  }
  Expect(is_finite, setup.name + ": every logit is finite");
  const auto expect_alone = [&](const std::vector<Floats>& logits, const std::string& how) {
    Expect(AreSameBits(logits, alone), setup.name + ": the same bits " + how);
  };
  expect_alone(runner->Run(whole, false, 0), "again");
  expect_alone(runner->Run(whole, false, 64), "beside neighbours");
  expect_alone(runner->Run(whole / 3 + 1, false, 7), "in chunks, beside neighbours");
  expect_alone(runner->Run(whole, true, 0), "recomputed at once");
  expect_alone(runner->Run(whole / 5 + 1, true, 1), "recomputed in chunks, beside decode rows");
  return alone;
}

struct Top {
  size_t token = 0;
  float margin = 0;
};

Top FindTop(const Floats& logits) {
  Top top;
  for (size_t i = 1; i < logits.size(); ++i) {
    if (logits[i] > logits[top.token]) top.token = i;
  }
  top.margin = INFINITY;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (i != top.token) top.margin = std::min(top.margin, logits[top.token] - logits[i]);
  }
  return top;
}

// Relative error of logits as tests/model/llama_test.cc expects it: each of a layer's 7 products,
// and the last, adds an independent rounding of both factors; a factor of 2 for what the
// non-linear parts amplify.
double ExpectedRelativeError(DType type, int num_layers) {
  return 2 * UnitRoundoff(type) * std::sqrt(7.0 * num_layers + 1);
}

struct LogitErrors {
  double rms = 0;        // of the errors
  double deviation = 0;  // of the logits themselves
};

LogitErrors CompareLogits(const std::vector<Floats>& logits, const std::vector<Floats>& expected) {
  double error_squares = 0, squares = 0;
  for (size_t row = 0; row < logits.size(); ++row) {
    for (size_t i = 0; i < logits[row].size(); ++i) {
      error_squares += std::pow(double{logits[row][i]} - double{expected[row][i]}, 2);
      squares += std::pow(double{expected[row][i]}, 2);
    }
  }
  const auto count = static_cast<double>(logits.size() * logits.front().size());
  return {std::sqrt(error_squares / count), std::sqrt(squares / count)};
}

void TestAgainstCpu(const std::vector<Floats>& logits, DType type, const Setup& setup) {
  const auto cpu = MakeCpuBackend({});
  const std::vector<Floats> expected = Runner(cpu.get(), setup).Run(1 << 20, true, 0);
  const LogitErrors errors = CompareLogits(logits, expected);
  const double allowed = ExpectedRelativeError(type, setup.shape.num_layers);
  Expect(errors.rms < allowed * errors.deviation,
         setup.name + ": logits of deviation " + std::to_string(errors.deviation) +
             " off the CPU's by " + std::to_string(errors.rms) + ", a share of at most " +
             std::to_string(allowed));
  int num_compared = 0, num_equal = 0;
  for (size_t row = 0; row < logits.size(); ++row) {
    const Top top = FindTop(expected[row]);
    if (top.margin < 6 * errors.rms) continue;  // 4 deviations of a difference
    ++num_compared;
    num_equal += FindTop(logits[row]).token == top.token ? 1 : 0;
  }
  Expect(num_equal == num_compared && num_compared > 0,
         setup.name + ": " + std::to_string(num_equal) + " greedy tokens of " +
             std::to_string(num_compared) + " with a margin are the CPU's");
}

int Main(const std::string& name, DType type) {
  const auto setup = std::find_if(std::begin(kSetups), std::end(kSetups),
                                  [&](const Setup& candidate) { return candidate.name == name; });
  if (setup == std::end(kSetups)) {
    std::fprintf(stderr, "usage: decoder_step_test micro|tiny|small|llama8b [bf16|fp16]\n");
    return 2;
  }
  const CudaBackendOrError opened = TESSERA_CUDA_NAMESPACE::MakeBackend({.type = type});
  if (opened.backend == nullptr) {
    std::fprintf(stderr, "decoder_step_test: %s\n", opened.error.c_str());
    return 1;
  }
  std::vector<Floats> logits;
  {
    Runner runner(opened.backend.get(), *setup);
    logits = TestReproducibility(&runner, *setup);
    TestNoAllocations(&runner, *setup);
    TestStepsInFlight(&runner, *setup);
  }
  if (name != "llama8b") TestAgainstCpu(logits, type, *setup);
  std::printf("%d failed on %s\n", num_failures, std::string(opened.backend->name()).c_str());
  return num_failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  const bool is_fp16 = argc > 2 && std::string(argv[2]) == "fp16";
  return tessera::Main(argc > 1 ? argv[1] : "tiny",
                       is_fp16 ? tessera::DType::kF16 : tessera::DType::kBf16);
}
