#include "model/weights.h"

#include <unistd.h>
#include <xxhash.h>

#include <cstring>
#include <map>
#include <numeric>

#include "absl/strings/str_format.h"
#include "base/check.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/dequantize.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/temp_file.h"
#include "tests/support/tiny_model.h"

namespace tessera {
namespace {

using absl::StatusCode;
using testing::HasSubstr;

// Opens, reads the configuration and loads, keeping what the weights point to.
struct Loaded {
  explicit Loaded(std::string_view bytes) : path(bytes) {
    auto opened = GgufFile::Open(path.path());
    CHECK(opened.ok()) << opened.status();
    file = *std::move(opened);
    const auto read = ReadModelConfig(*file);
    CHECK(read.ok()) << read.status();
    config = *read;
  }
  absl::StatusOr<ModelWeights> Load() { return LoadWeights(*file, config, backend.get()); }

  TempFile path;
  std::unique_ptr<const GgufFile> file;
  ModelConfig config;
  std::unique_ptr<Backend> backend = MakeReferenceBackend();
};

// A packed weight's rows, dequantised.
std::vector<float> Rows(Backend* backend, const PackedWeight& weight) {
  std::vector<TokenId> all(static_cast<size_t>(weight.rows()));
  std::iota(all.begin(), all.end(), 0);
  std::vector<float> values(static_cast<size_t>(weight.rows() * weight.cols()));
  backend->Embed(weight, all, values.data());
  return values;
}

std::vector<float> FileRows(const GgufFile& file, std::string_view name) {
  const GgufTensor& tensor = *file.FindTensor(name);
  std::vector<std::byte> bytes(tensor.size_bytes);
  CHECK(file.ReadRows(tensor, 0, tensor.rows(), bytes.data()).ok());
  std::vector<float> values(static_cast<size_t>(tensor.rows() * tensor.cols()));
  DequantizeRow(tensor.type, bytes.data(), tensor.rows() * tensor.cols(), values.data());
  return values;
}

// What conversion to GGUF does to a projection's rows: head h's row p * dim / 2 + i goes to
// h * dim + 2 i + p.
std::vector<float> Interleaved(const std::vector<float>& rows, size_t cols, size_t head_dim) {
  std::vector<float> out(rows.size());
  for (size_t row = 0; row < rows.size() / cols; ++row) {
    const size_t p = row % head_dim / (head_dim / 2);
    const size_t i = row % (head_dim / 2);
    const size_t to = row / head_dim * head_dim + 2 * i + p;
    std::memcpy(&out[to * cols], &rows[row * cols], cols * sizeof(float));
  }
  return out;
}

// Wide enough that a projection does not fit one slice of the file.
constexpr TinyModelOptions kWide = {
    .num_layers = 1, .hidden_dim = 544, .num_heads = 10, .head_dim = 64, .ffn_dim = 32};

TEST(WeightsTest, UndoesTheRowOrderOfQueriesAndKeys) {
  for (const TinyModelOptions& options : {kWide, TinyModelOptions{.type = DType::kQ4_K}}) {
    Loaded loaded(MakeTinyModel(options));
    const auto weights = loaded.Load();
    ASSERT_TRUE(weights.ok()) << weights.status();
    const LayerWeights& layer = weights->layers[0];
    Backend* backend = loaded.backend.get();
    const auto cols = static_cast<size_t>(options.hidden_dim);
    EXPECT_EQ(Interleaved(Rows(backend, *layer.q), cols, 64),
              FileRows(*loaded.file, "blk.0.attn_q.weight"));
    EXPECT_EQ(Interleaved(Rows(backend, *layer.k), cols, 64),
              FileRows(*loaded.file, "blk.0.attn_k.weight"));
    EXPECT_EQ(Rows(backend, *layer.v), FileRows(*loaded.file, "blk.0.attn_v.weight"));
    EXPECT_EQ(Rows(backend, *layer.down), FileRows(*loaded.file, "blk.0.ffn_down.weight"));
  }
}

TEST(WeightsTest, TheHashIsThatOfTheWholeFile) {
  const std::string bytes = MakeTinyModel(kWide) + "trailing bytes count too";
  Loaded loaded(bytes);
  const auto weights = loaded.Load();
  ASSERT_TRUE(weights.ok()) << weights.status();
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  EXPECT_EQ(weights->hash, absl::StrFormat("%016x%016x", hash.high64, hash.low64));
}

TEST(WeightsTest, TiedAndUntiedOutput) {
  Loaded tied(MakeTinyModel({}));
  const auto tied_weights = tied.Load();
  ASSERT_TRUE(tied_weights.ok()) << tied_weights.status();
  EXPECT_EQ(&tied_weights->output(), tied_weights->token_embedding.get());
  Loaded untied(MakeTinyModel({.is_tied = false}));
  const auto untied_weights = untied.Load();
  ASSERT_TRUE(untied_weights.ok()) << untied_weights.status();
  EXPECT_EQ(Rows(untied.backend.get(), untied_weights->output()),
            FileRows(*untied.file, "output.weight"));
}

TEST(WeightsTest, ReadsRopeDivisorsAndNorms) {
  Loaded loaded(MakeTinyModel({.has_llama3_rope = true}));
  const auto weights = loaded.Load();
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ(weights->rope_divisors, FileRows(*loaded.file, "rope_freqs.weight"));
  const float* norm = weights->output_norm.As<float>();
  EXPECT_EQ(std::vector<float>(norm, norm + 256), FileRows(*loaded.file, "output_norm.weight"));
}

// One layer by hand, so that a case can leave out or change any tensor.
struct Shape {
  int64_t cols;
  int64_t rows;
};
std::map<std::string, Shape> GoodTensors() {
  return {{"token_embd.weight", {16, 10}},        {"output_norm.weight", {16, 1}},
          {"blk.0.attn_norm.weight", {16, 1}},    {"blk.0.attn_q.weight", {16, 16}},
          {"blk.0.attn_k.weight", {16, 8}},       {"blk.0.attn_v.weight", {16, 8}},
          {"blk.0.attn_output.weight", {16, 16}}, {"blk.0.ffn_norm.weight", {16, 1}},
          {"blk.0.ffn_gate.weight", {16, 12}},    {"blk.0.ffn_up.weight", {16, 12}},
          {"blk.0.ffn_down.weight", {12, 16}}};
}

absl::Status StatusWith(const std::map<std::string, Shape>& tensors) {
  GgufWriter writer;
  writer.Add("general.architecture", "llama");
  for (const auto& [key, value] : std::map<std::string, uint32_t>{{"block_count", 1},
                                                                  {"context_length", 16},
                                                                  {"embedding_length", 16},
                                                                  {"feed_forward_length", 12},
                                                                  {"attention.head_count", 2},
                                                                  {"attention.head_count_kv", 1}}) {
    writer.Add("llama." + key, value);
  }
  writer.Add("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  for (const auto& [name, shape] : tensors) {
    std::string ones;
    for (int64_t i = 0; i < shape.cols * shape.rows; ++i) ones.append("\0\0\x80\x3f", 4);
    writer.AddTensor(name, DType::kF32, {shape.cols, shape.rows}, ones);
  }
  return Loaded(writer.Build()).Load().status();
}

TEST(WeightsTest, RefusesMissingUnknownAndMisshapenTensors) {
  EXPECT_TRUE(StatusWith(GoodTensors()).ok()) << StatusWith(GoodTensors());
  for (const auto& [name, shape] : GoodTensors()) {
    SCOPED_TRACE(name);
    if (name == "token_embd.weight") continue;  // the configuration needs it already
    std::map<std::string, Shape> tensors = GoodTensors();
    tensors.erase(name);
    const absl::Status missing = StatusWith(tensors);
    EXPECT_EQ(missing.code(), StatusCode::kNotFound) << missing;
    EXPECT_THAT(std::string(missing.message()), HasSubstr(name));
    tensors[name] = {shape.cols, shape.rows + 1};
    const absl::Status misshapen = StatusWith(tensors);
    EXPECT_EQ(misshapen.code(), StatusCode::kInvalidArgument) << misshapen;
    EXPECT_THAT(std::string(misshapen.message()),
                HasSubstr(absl::StrFormat("expected shape [%d, %d], got [%d, %d]", shape.rows,
                                          shape.cols, shape.rows + 1, shape.cols)));
  }
  std::map<std::string, Shape> biased = GoodTensors();
  biased["blk.0.attn_q.bias"] = {16, 1};
  const absl::Status unknown = StatusWith(biased);
  EXPECT_EQ(unknown.code(), StatusCode::kUnimplemented) << unknown;
  EXPECT_THAT(std::string(unknown.message()), HasSubstr("blk.0.attn_q.bias"));
}

TEST(WeightsTest, RefusesRopeDivisorsOutOfRange) {
  std::map<std::string, Shape> tensors = GoodTensors();
  tensors["rope_freqs.weight"] = {4, 1};
  EXPECT_TRUE(StatusWith(tensors).ok()) << StatusWith(tensors);
  std::string bytes = MakeTinyModel({.has_llama3_rope = true});
  uint64_t offset = 0;
  {
    Loaded loaded(bytes);
    offset = loaded.file->FindTensor("rope_freqs.weight")->file_offset;
  }
  std::memset(&bytes[offset], 0, sizeof(float));
  Loaded broken(bytes);
  const absl::Status status = broken.Load().status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("rope_freqs.weight: expected 0.001 to"));
}

TEST(WeightsTest, AFileCutShortWhileLoadingIsAStatus) {
  Loaded loaded(MakeTinyModel({}));
  ASSERT_EQ(truncate(loaded.path.path().c_str(), static_cast<off_t>(loaded.file->size_bytes() / 2)),
            0);
  EXPECT_EQ(loaded.Load().status().code(), StatusCode::kDataLoss);
}

}  // namespace
}  // namespace tessera
