#include "model/config.h"

#include <cmath>
#include <map>
#include <string>
#include <variant>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/temp_file.h"

namespace tessera {
namespace {

using absl::StatusCode;
using testing::HasSubstr;

using Value = std::variant<uint32_t, float, std::string, std::vector<int32_t>>;
using Values = std::map<std::string, Value>;

Values GoodValues() {
  return {{"general.architecture", std::string("llama")},
          {"general.name", std::string("A model")},
          {"llama.block_count", 2u},
          {"llama.context_length", 128u},
          {"llama.embedding_length", 64u},
          {"llama.feed_forward_length", 96u},
          {"llama.attention.head_count", 4u},
          {"llama.attention.head_count_kv", 2u},
          {"llama.attention.layer_norm_rms_epsilon", 1e-5f},
          {"llama.vocab_size", 10u}};
}

absl::StatusOr<ModelConfig> ConfigOf(const Values& values, int64_t vocab_size = 10) {
  GgufWriter writer;
  for (const auto& entry : values) {
    std::visit([&](const auto& value) { writer.Add(entry.first, value); }, entry.second);
  }
  if (vocab_size > 0) {
    writer.AddTensor("token_embd.weight", DType::kF32, {64, vocab_size},
                     std::string(static_cast<size_t>(vocab_size) * 64 * 4, '\0'));
  }
  const TempFile bytes(writer.Build());
  const auto file = GgufFile::Open(bytes.path());
  if (!file.ok()) return file.status();
  return ReadModelConfig(**file);
}

TEST(ConfigTest, ReadsEveryValue) {
  Values values = GoodValues();
  values["llama.attention.key_length"] = 32u;
  values["llama.attention.value_length"] = 32u;
  values["llama.rope.dimension_count"] = 16u;
  values["llama.rope.freq_base"] = 5e5f;
  values["llama.rope.scaling.type"] = "linear";
  values["llama.rope.scaling.factor"] = 4.0f;
  values["llama.attention.sliding_window"] = 48u;
  values["llama.attention.scale"] = 0.25f;
  const absl::StatusOr<ModelConfig> config = ConfigOf(values);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->name, "A model");
  EXPECT_EQ(config->num_layers, 2);
  EXPECT_EQ(config->max_context, 128);
  EXPECT_EQ(config->hidden_dim, 64);
  EXPECT_EQ(config->ffn_dim, 96);
  EXPECT_EQ(config->num_heads, 4);
  EXPECT_EQ(config->num_kv_heads, 2);
  EXPECT_EQ(config->head_dim, 32);
  EXPECT_EQ(config->rope_dim, 16);
  EXPECT_EQ(config->rope_base, 5e5);
  EXPECT_EQ(config->rope_factor, 4.0f);
  EXPECT_EQ(config->attention_window, 48);
  EXPECT_EQ(config->attention_scale, 0.25f);
  EXPECT_EQ(config->norm_epsilon, 1e-5f);
  EXPECT_EQ(config->vocab_size, 10);
}

TEST(ConfigTest, FillsInDefaults) {
  Values values = GoodValues();
  for (const char* key : {"general.name", "llama.attention.head_count_kv", "llama.vocab_size"}) {
    values.erase(key);
  }
  const absl::StatusOr<ModelConfig> config = ConfigOf(values);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->num_kv_heads, 4) << "no grouping";
  EXPECT_EQ(config->head_dim, 16) << "hidden_dim / num_heads";
  EXPECT_EQ(config->rope_dim, 16);
  EXPECT_EQ(config->rope_base, 10000);
  EXPECT_EQ(config->rope_factor, 1.0f);
  EXPECT_EQ(config->attention_window, 0);
  EXPECT_EQ(config->attention_scale, 0.25f) << "1 / sqrt(head_dim)";
}

TEST(ConfigTest, AcceptsPerLayerArraysOfOneValue) {
  Values values = GoodValues();
  values["llama.attention.head_count_kv"] = std::vector<int32_t>{2, 2};
  values["llama.feed_forward_length"] = std::vector<int32_t>{96, 96};
  EXPECT_TRUE(ConfigOf(values).ok());
  values["llama.feed_forward_length"] = std::vector<int32_t>{96, 128};
  EXPECT_EQ(ConfigOf(values).status().code(), StatusCode::kUnimplemented);
  values["llama.feed_forward_length"] = std::vector<int32_t>{96};
  EXPECT_EQ(ConfigOf(values).status().code(), StatusCode::kInvalidArgument);
}

struct BadValue {
  const char* key;
  Value value;
  StatusCode code;
  const char* message;
};

TEST(ConfigTest, RefusesBadValuesByName) {
  const auto invalid = StatusCode::kInvalidArgument;
  const auto unimplemented = StatusCode::kUnimplemented;
  const BadValue cases[] = {
      {"general.architecture", "gemma3", unimplemented,
       "general.architecture: expected one of: llama; got 'gemma3'"},
      {"general.architecture", 1u, invalid, "expected a string, got u32"},
      {"llama.block_count", 0u, invalid, "llama.block_count: expected 1 to 1024, got 0"},
      {"llama.block_count", 4'000'000'000u, invalid, "got 4000000000"},
      {"llama.block_count", 1.0f, invalid, "expected an unsigned integer, got f32"},
      {"llama.context_length", 0u, invalid, "llama.context_length: expected 1 to 1048576"},
      {"llama.embedding_length", 1u << 31, invalid, "expected 1 to 1048576, got 2147483648"},
      {"llama.feed_forward_length", 0u, invalid, "llama.feed_forward_length"},
      {"llama.attention.head_count", 0u, invalid, "expected 1 to 1024, got 0"},
      {"llama.attention.head_count_kv", 3u, invalid, "a divisor of head_count, 4, got 3"},
      {"llama.attention.head_count_kv", 0u, invalid, "expected 1 to 1024, got 0"},
      {"llama.attention.key_length", 20u, unimplemented, "a multiple of 8, 8 to 256, got 20"},
      {"llama.attention.key_length", 0u, invalid, "expected 2 to 256, got 0"},
      {"llama.attention.key_length", 1024u, invalid, "expected 2 to 256, got 1024"},
      {"llama.attention.value_length", 32u, invalid, "the length of a key, 16, got 32"},
      {"llama.attention.layer_norm_rms_epsilon", 0.0f, invalid, "expected 1e-12 to 0.1, got 0"},
      {"llama.attention.layer_norm_rms_epsilon", NAN, invalid, "got nan"},
      {"llama.rope.dimension_count", 18u, invalid, "expected 2 to 16, got 18"},
      {"llama.rope.dimension_count", 5u, invalid, "an even number, got 5"},
      {"llama.rope.freq_base", 0.5f, invalid, "expected 1 to 1e+12, got 0.5"},
      {"llama.rope.freq_base", INFINITY, invalid, "got inf"},
      {"llama.rope.scaling.type", "yarn", unimplemented, "expected none or linear"},
      {"llama.rope.scaling.factor", 0.0f, invalid, "expected 1 to 1e+06, got 0"},
      {"llama.rope.scale_linear", 4.0f, unimplemented, "llama.rope.scale_linear: not supported"},
      {"llama.expert_count", 8u, unimplemented, "no mixture of experts), got 8"},
      {"llama.attn_logit_softcapping", 50.0f, unimplemented, "not supported"},
      {"llama.vocab_size", 11u, invalid, "token_embd.weight's rows, 10, got 11"},
  };
  for (const BadValue& bad : cases) {
    SCOPED_TRACE(bad.key);
    Values values = GoodValues();
    values[bad.key] = bad.value;
    const absl::Status status = ConfigOf(values).status();
    EXPECT_EQ(status.code(), bad.code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(bad.message));
    EXPECT_THAT(std::string(status.message()), HasSubstr(bad.key));
  }
}

TEST(ConfigTest, RefusesMissingKeys) {
  for (const char* key : {"general.architecture", "llama.block_count", "llama.context_length",
                          "llama.embedding_length", "llama.feed_forward_length",
                          "llama.attention.head_count", "llama.attention.layer_norm_rms_epsilon"}) {
    Values values = GoodValues();
    values.erase(key);
    const absl::Status status = ConfigOf(values).status();
    EXPECT_EQ(status.code(), StatusCode::kNotFound) << key << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(key));
  }
}

TEST(ConfigTest, RefusesAFileWithoutAnEmbeddingTable) {
  const absl::Status status = ConfigOf(GoodValues(), 0).status();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("token_embd.weight"));
}

}  // namespace
}  // namespace tessera
