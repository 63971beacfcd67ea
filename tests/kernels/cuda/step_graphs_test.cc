#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "base/check.h"
#include "kernels/cuda/make_backend.h"
#include "kernels/cuda/world.h"
#include "tests/kernels/device_io.h"
#include "tests/kernels/op_runner.h"
#include "tests/support/ragged_step.h"
#include "tests/support/random_decoder.h"

// Steps that CUDA graphs serve: when they do, and that no bit of a row tells.

namespace tessera {
namespace {

std::unique_ptr<Backend> MakeBackend() {
  auto opened = TESSERA_CUDA_NAMESPACE::MakeBackend({});
  CHECK(opened.backend != nullptr) << opened.error;
  return std::move(opened.backend);
}

// One new token each for num_sequences sequences of `length` tokens.
RaggedStep DecodeStep(int num_sequences, int length) {
  RaggedStep step(num_sequences, (length + kPageTokens - 1) / kPageTokens, 160);
  for (int i = 0; i < num_sequences; ++i) step.Add(i, length - 1, length, length - 1);
  return step;
}

// A step whose page ids need more memory than any step of these tests.
void GrowStepMemory(Backend* backend, int32_t num_pages) {
  const TokenId tokens[] = {0};
  const int32_t query_starts[] = {0, 1}, kv_lengths[] = {1}, page_starts[] = {0, num_pages};
  const std::vector<int32_t> page_ids(static_cast<size_t>(num_pages));
  const SequenceBatch batch = {query_starts, kv_lengths, page_starts, page_ids};
  backend->BeginStep({.tokens = tokens, .batch = &batch, .selected = {}});
}

// A program of one op, which counts how often it is asked for.
class NormProgram {
 public:
  static constexpr int64_t kMaxRows = 320;
  static constexpr int64_t kDim = 64;

  explicit NormProgram(Backend* backend)
      : backend_(*backend),
        values_(NormalFloats(kMaxRows * kDim, 1)),
        weight_values_(NormalFloats(kDim, 2)),
        x_(UploadFloats(backend, values_)),
        weight_(UploadFloats(backend, weight_values_)),
        out_(AllocateActivations(backend, kMaxRows * kDim)) {}

  // Runs a step of that many rows; returns whether its calls were made, and not repeated.
  bool Run(int num_rows) {
    bool was_called = false;
    RaggedStep step = DecodeStep(num_rows, 5);
    backend_.RunStep(step.Rows(), this, [&] {
      was_called = true;
      backend_.RmsNorm(x_.As<float>(), weight_.As<float>(), 1e-5f, num_rows, kDim, out_.As<void>());
    });
    backend_.Synchronize();
    return was_called;
  }

  // What the last step left of its rows, against the op alone.
  void ExpectRows(int num_rows) {
    const auto size = static_cast<size_t>(num_rows) * kDim;
    Floats got = DownloadActivations(&backend_, out_);
    got.resize(size);
    const Floats x(values_.begin(), values_.begin() + static_cast<int64_t>(size));
    EXPECT_EQ(got, RunRmsNorm(&backend_, x, weight_values_, 1e-5f)) << num_rows << " rows";
  }

 private:
  Backend& backend_;
  const Floats values_;
  const Floats weight_values_;
  const DeviceBuffer x_, weight_, out_;
};

TEST(StepGraphsTest, CallsAreMadeTwiceAndThenRepeated) {
  const auto backend = MakeBackend();
  NormProgram program(backend.get());
  for (const int num_rows : {1, 2, 3, 5, 64, 65, 200}) {
    EXPECT_TRUE(program.Run(num_rows)) << num_rows;
    EXPECT_TRUE(program.Run(num_rows)) << num_rows;
    EXPECT_FALSE(program.Run(num_rows)) << num_rows;
    EXPECT_FALSE(program.Run(num_rows)) << num_rows;
  }
}

TEST(StepGraphsTest, OneGraphServesSeveralNumbersOfRows) {
  const auto backend = MakeBackend();
  NormProgram program(backend.get());
  program.Run(9);
  program.Run(11);
  for (const int num_rows : {10, 16, 9}) EXPECT_FALSE(program.Run(num_rows)) << num_rows;
  EXPECT_TRUE(program.Run(8));
  EXPECT_TRUE(program.Run(17));
}

TEST(StepGraphsTest, RowsOfPaddedStepsAreTheOps) {
  const auto backend = MakeBackend();
  for (const int num_rows : {1, 3, 7, 33, 100}) {
    NormProgram program(backend.get());
    for (int i = 0; i < 3; ++i) program.Run(num_rows);
    program.ExpectRows(num_rows);
  }
}

TEST(StepGraphsTest, LargeStepsAreNeverRepeated) {
  const auto backend = MakeBackend();
  NormProgram program(backend.get());
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(program.Run(257));
  program.ExpectRows(257);
}

TEST(StepGraphsTest, ProgramsAreToldApart) {
  const auto backend = MakeBackend();
  NormProgram first(backend.get()), second(backend.get());
  for (int i = 0; i < 3; ++i) first.Run(2);
  EXPECT_TRUE(second.Run(2));
  EXPECT_TRUE(second.Run(2));
  EXPECT_FALSE(second.Run(2));
  EXPECT_FALSE(first.Run(2));
}

TEST(StepGraphsTest, FreedMemoryEndsGraphs) {
  const auto backend = MakeBackend();
  NormProgram program(backend.get());
  for (int i = 0; i < 3; ++i) program.Run(2);
  { const DeviceBuffer freed = backend->Allocate(64); }
  EXPECT_TRUE(program.Run(2));
}

TEST(StepGraphsTest, MovedStepMemoryEndsGraphs) {
  const auto backend = MakeBackend();
  NormProgram program(backend.get());
  for (int i = 0; i < 3; ++i) program.Run(2);
  GrowStepMemory(backend.get(), 10);
  EXPECT_FALSE(program.Run(2));
  GrowStepMemory(backend.get(), 100'000);
  EXPECT_TRUE(program.Run(2));
  EXPECT_TRUE(program.Run(2));
  EXPECT_FALSE(program.Run(2));
  program.ExpectRows(2);
}

// ---- A decoder ----

constexpr int kNumSequences = 9;
constexpr int kLength = 72;  // of each, more than a page
constexpr int kPagesEach = 2;

DecoderShape SmallShape() {
  return {.num_layers = 2,
          .hidden_dim = 64,
          .num_heads = 2,
          .kv = {.num_kv_heads = 1, .head_dim = 64},
          .ffn_dim = 96,
          .vocab_size = 160,
          .type = DType::kQ8_0,
          .max_rows = kNumSequences * kLength,
          .max_selected = kNumSequences * kLength,
          .max_context = kLength,
          .num_pages = kNumSequences * kPagesEach};
}

// Decodes kNumSequences sequences, a few at a time, and holds each row's logits to those of one
// large step that computes all of them at once.
class DecodeCheck {
 public:
  explicit DecodeCheck(Backend* backend)
      : backend_(*backend), decoder_(backend, SmallShape(), 1), lengths_(kNumSequences) {
    RandomDecoder at_once(backend, SmallShape(), 1);
    RaggedStep step = NewStep();
    for (int i = 0; i < kNumSequences; ++i) step.Add(i, 0, kLength, 0);
    expected_ = Run(&at_once, step.Rows());
  }

  // Brings all sequences but the last few tokens, whose number differs; none is sampled.
  void Prefill() {
    RaggedStep step = NewStep();
    for (int i = 0; i < kNumSequences; ++i) {
      lengths_[i] = kLength - 12 - i % 4;
      step.Add(i, 0, lengths_[i], kLength);
    }
    CHECK_GT(step.Rows().batch->num_rows(), 256) << "rows, or graphs may serve the step";
    Run(&decoder_, step.Rows());
  }

  // The next `num_new` tokens of each of `num_sequences` sequences.
  void Step(int num_sequences, int num_new = 1) {
    RaggedStep step = NewStep();
    Floats expected;
    for (int i = 0; i < num_sequences; ++i) {
      const int sequence = next_sequence_++ % kNumSequences;
      int& length = lengths_[static_cast<size_t>(sequence)];
      CHECK_LE(length + num_new, kLength);
      step.Add(sequence, length, length + num_new, length);
      const auto* first = &expected_[RowStart(sequence * kLength + length)];
      expected.insert(expected.end(), first, first + RowStart(num_new));
      length += num_new;
    }
    const Floats got = Run(&decoder_, step.Rows());
    ASSERT_EQ(got.size(), expected.size());
    EXPECT_EQ(std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)), 0)
        << num_sequences << " sequences, " << num_new << " tokens each";
  }

 private:
  static RaggedStep NewStep() { return RaggedStep(kNumSequences, kPagesEach, VocabSize()); }
  static int VocabSize() { return SmallShape().vocab_size; }
  static size_t RowStart(int row) { return static_cast<size_t>(row) * VocabSize(); }

  Floats Run(RandomDecoder* decoder, const StepRows& rows) {
    decoder->Run(rows);
    Floats logits(rows.selected.size() * VocabSize());
    backend_.Download(decoder->logits(), logits.size() * sizeof(float), logits.data());
    backend_.Synchronize();
    return logits;
  }

  Backend& backend_;
  RandomDecoder decoder_;
  Floats expected_;  // [kNumSequences * kLength, vocab_size]
  std::vector<int> lengths_;
  int next_sequence_ = 0;
};

TEST(StepGraphsTest, NoBitOfARowTellsOfGraphs) {
  const auto backend = MakeBackend();
  DecodeCheck check(backend.get());
  check.Prefill();
  for (const int num_sequences : {9, 9, 9, 3, 4, 3, 2, 2, 2, 1, 1, 1, 7, 5, 8}) {
    check.Step(num_sequences);
  }
  for (int i = 0; i < 3; ++i) check.Step(2, 2);  // as drafts are
}

TEST(StepGraphsTest, NoBitOfARowTellsOfMovedMemory) {
  const auto backend = MakeBackend();
  DecodeCheck check(backend.get());
  check.Prefill();
  for (const int num_pages : {0, 100'000, 300'000}) {
    GrowStepMemory(backend.get(), num_pages);
    for (int i = 0; i < 4; ++i) check.Step(3);
  }
}

// ---- What padding rows do not write ----

struct Stored {
  std::vector<uint8_t> pages;
  std::vector<uint8_t> faults;
};

// Appends three sequences' rows of keys and values, four times; rows behind them are not finite.
Stored AppendRows(Backend* backend, bool with_graphs) {
  constexpr int kNumRows = 3;
  constexpr KvSpec kSpec = {.num_kv_heads = 1, .head_dim = 64};
  constexpr size_t kRowSize = size_t{4} * 64;  // two query heads
  Stored stored;
  Floats values = NormalFloats(kRowPadding * kRowSize, 7);
  std::fill(values.begin() + kNumRows * kRowSize, values.end(),
            std::numeric_limits<float>::infinity());
  const DeviceBuffer qkv = UploadActivations(backend, values);
  const DeviceBuffer pages = backend->Allocate(kNumRows * backend->KvPageBytes(kSpec));
  const DeviceBuffer faults = backend->Allocate(kRowPadding);
  const DeviceBuffer cosines = UploadFloats(backend, Floats(size_t{kPageTokens} * 32, 1.0f));
  const DeviceBuffer sines = UploadFloats(backend, Floats(size_t{kPageTokens} * 32, 0.0f));
  for (int length = 1; length <= 4; ++length) {
    RaggedStep step = DecodeStep(kNumRows, length);
    const StepRows rows = step.Rows();
    const auto append = [&] {
      backend->RopeStoreKv({.qkv = qkv.As<void>(),
                            .num_heads = 2,
                            .spec = kSpec,
                            .pages = pages.As<std::byte>(),
                            .batch = rows.batch,
                            .rope_cos = cosines.As<float>(),
                            .rope_sin = sines.As<float>(),
                            .rope_dim = 64,
                            .row_faults = faults.As<uint8_t>()});
    };
    if (with_graphs) {
      backend->RunStep(rows, qkv.As<void>(), append);
    } else {
      backend->BeginStep(rows);
      append();
    }
    backend->Synchronize();
  }
  stored.pages.resize(pages.size_bytes());
  stored.faults.resize(faults.size_bytes());
  backend->Download(pages.As<void>(), stored.pages.size(), stored.pages.data());
  backend->Download(faults.As<void>(), stored.faults.size(), stored.faults.data());
  backend->Synchronize();
  return stored;
}

TEST(StepGraphsTest, PaddingRowsStoreNothing) {
  const auto backend = MakeBackend();
  const Stored plain = AppendRows(backend.get(), false);
  const Stored padded = AppendRows(backend.get(), true);
  EXPECT_EQ(padded.pages, plain.pages);
  EXPECT_EQ(padded.faults, std::vector<uint8_t>(kRowPadding));
}

}  // namespace
}  // namespace tessera
