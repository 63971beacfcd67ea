#include "server/request_parser.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/table_tokenizer.h"

namespace tessera {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Pair;

// Bytes, with a BOS in front and two tokens that end a generation.
class BosTokenizer final : public Tokenizer {
 public:
  BosTokenizer() : bos_(bytes_.AddSpecial("<s>")), ends_{bos_ + 1, bos_ + 2} {
    bytes_.AddSpecial("</s>");
    bytes_.AddSpecial("<end>");
  }
  std::vector<TokenId> Encode(std::string_view text, SpecialTokens special) const override {
    if (special == SpecialTokens::kParse && text == "</s>") return {ends_[0]};
    return bytes_.Encode(text, special);
  }
  std::string_view Bytes(TokenId token) const override { return bytes_.Bytes(token); }
  bool IsSpecial(TokenId token) const override { return bytes_.IsSpecial(token); }
  int vocab_size() const override { return bytes_.vocab_size(); }
  std::span<const TokenId> end_tokens() const override { return ends_; }
  TokenId bos_token() const override { return bos_; }
  bool adds_bos() const override { return true; }
  std::string_view chat_template() const override { return {}; }

 private:
  TableTokenizer bytes_;
  const TokenId bos_;
  const TokenId ends_[2];
};

constexpr uint64_t kDrawnSeed = 4242;
constexpr TokenId kBos = 256;
constexpr TokenId kEos = 257;
constexpr TokenId kEnd = 258;

class RequestParserTest : public testing::Test {
 protected:
  ParsedRequest Parse() {
    const absl::StatusOr<ParsedRequest> parsed = parser_.Parse(proto_, kDrawnSeed);
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    return parsed.ok() ? *parsed : ParsedRequest();
  }

  BosTokenizer tokenizer_;
  RequestParser parser_{&tokenizer_, /*max_context=*/128, /*max_message_bytes=*/4096, "model"};
  v1::GenerateRequest proto_;
};

TEST_F(RequestParserTest, AppliesTheDefaults) {
  proto_.set_text("hi");
  const ParsedRequest parsed = Parse();
  const Request& request = parsed.request;
  EXPECT_THAT(request.prompt, ElementsAre(kBos, 'h', 'i'));
  EXPECT_EQ(request.max_tokens, -1);
  EXPECT_EQ(request.min_tokens, 0);
  EXPECT_EQ(request.num_sequences, 1);
  EXPECT_EQ(request.num_logprobs, -1);
  EXPECT_EQ(request.num_prompt_logprobs, -1);
  EXPECT_EQ(request.priority, 0);
  EXPECT_EQ(request.sampling.temperature, 1.0f);
  EXPECT_EQ(request.sampling.top_k, 0);
  EXPECT_EQ(request.sampling.top_p, 1.0f);
  EXPECT_EQ(request.sampling.min_p, 0.0f);
  EXPECT_FALSE(request.sampling.has_penalties());
  EXPECT_EQ(request.sampling.seed, kDrawnSeed);
  EXPECT_THAT(request.stop_tokens, ElementsAre(kEos, kEnd));
  EXPECT_THAT(parsed.text.stop_strings, IsEmpty());
  EXPECT_EQ(parsed.echo_text, "");
}

TEST_F(RequestParserTest, TakesTokenIdsAsTheyAre) {
  proto_.mutable_token_ids()->add_ids('x');
  proto_.mutable_token_ids()->add_ids(kEos);
  proto_.set_echo(true);
  const ParsedRequest parsed = Parse();
  EXPECT_THAT(parsed.request.prompt, ElementsAre('x', kEos));
  EXPECT_EQ(parsed.echo_text, "x</s>");
}

TEST_F(RequestParserTest, ParsesSpecialTokensOnlyWhereAsked) {
  proto_.set_text("</s>");
  EXPECT_THAT(Parse().request.prompt, ElementsAre(kBos, '<', '/', 's', '>'));
  proto_.set_parse_special(true);
  EXPECT_THAT(Parse().request.prompt, ElementsAre(kBos, kEos));
}

TEST_F(RequestParserTest, KeepsWhatTheClientSets) {
  proto_.set_text("hi");
  proto_.set_n(64);
  proto_.set_logprobs(0);
  proto_.set_prompt_logprobs(20);
  proto_.set_priority(-5);
  v1::SamplingParams* sampling = proto_.mutable_sampling();
  sampling->set_temperature(0);
  sampling->set_top_k(-1);
  sampling->set_top_p(0.25f);
  sampling->set_min_p(1);
  sampling->set_repetition_penalty(10);
  sampling->set_frequency_penalty(-2);
  sampling->set_presence_penalty(2);
  sampling->set_seed(UINT64_MAX);
  (*sampling->mutable_logit_bias())[9] = -100;
  (*sampling->mutable_logit_bias())[3] = 100;
  proto_.mutable_stop()->set_max_tokens(125);
  proto_.mutable_stop()->set_min_tokens(125);
  proto_.mutable_stop()->set_include_stop_string(true);
  proto_.mutable_stop()->add_stop_strings(std::string(256, 's'));

  const ParsedRequest parsed = Parse();
  const Request& request = parsed.request;
  EXPECT_EQ(request.num_sequences, 64);
  EXPECT_EQ(request.num_logprobs, 0);
  EXPECT_EQ(request.num_prompt_logprobs, 20);
  EXPECT_EQ(request.priority, -5);
  EXPECT_EQ(request.sampling.temperature, 0.0f);
  EXPECT_EQ(request.sampling.top_k, -1);
  EXPECT_EQ(request.sampling.top_p, 0.25f);
  EXPECT_EQ(request.sampling.min_p, 1.0f);
  EXPECT_EQ(request.sampling.repetition_penalty, 10.0f);
  EXPECT_EQ(request.sampling.frequency_penalty, -2.0f);
  EXPECT_EQ(request.sampling.presence_penalty, 2.0f);
  EXPECT_EQ(request.sampling.seed, UINT64_MAX);
  EXPECT_THAT(request.sampling.logit_bias, ElementsAre(Pair(3, 100.0f), Pair(9, -100.0f)));
  EXPECT_EQ(request.max_tokens, 125);
  EXPECT_EQ(request.min_tokens, 125);
  EXPECT_EQ(parsed.text.min_tokens, 125);
  EXPECT_TRUE(parsed.text.include_stop_string);
}

TEST_F(RequestParserTest, StopTokensAreSortedOnceEach) {
  proto_.set_text("hi");
  for (const int token : {TokenId{'z'}, TokenId{'a'}, TokenId{'z'}, kEos})
    proto_.mutable_stop()->add_stop_token_ids(token);
  EXPECT_THAT(Parse().request.stop_tokens, ElementsAre('a', 'z', kEos, kEnd));
}

TEST_F(RequestParserTest, IgnoreEosStopsAtStopIdsAloneButStillBansBothBeforeMin) {
  proto_.set_text("hi");
  proto_.mutable_stop()->set_ignore_eos(true);
  proto_.mutable_stop()->add_stop_token_ids('z');
  const Request request = Parse().request;
  EXPECT_THAT(request.stop_tokens, ElementsAre('z'));
  EXPECT_THAT(request.banned_before_min, ElementsAre('z', kEos, kEnd));
}

TEST_F(RequestParserTest, LongestPromptLeavesRoomForOneToken) {
  proto_.set_text(std::string(126, 'x'));  // and BOS
  EXPECT_EQ(Parse().request.prompt.size(), 127u);
  proto_.set_text(std::string(127, 'x'));
  EXPECT_FALSE(parser_.Parse(proto_, kDrawnSeed).ok());
}

TEST_F(RequestParserTest, EchoOfATextIsThatText) {
  proto_.set_text("caf\xC3\xA9");
  proto_.set_echo(true);
  EXPECT_EQ(Parse().echo_text, "caf\xC3\xA9");
}

TEST_F(RequestParserTest, EchoesOfAllOutputsAreBoundedTogether) {
  proto_.set_text(std::string(100, 'x'));
  proto_.set_echo(true);
  proto_.set_n(5);
  EXPECT_EQ(Parse().echo_text.size(), 100u);
  proto_.set_n(6);  // of 4096 / 8 bytes
  EXPECT_THAT(std::string(parser_.Parse(proto_, kDrawnSeed).status().message()),
              HasSubstr("echo: expected at most 512 bytes of prompt in the n outputs together, got "
                        "600 bytes"));
}

TEST_F(RequestParserTest, TooManyTokensAreRefusedBeforeTheyAreLookedAt) {
  for (int i = 0; i < 128; ++i) proto_.mutable_token_ids()->add_ids(-1);
  EXPECT_THAT(std::string(parser_.Parse(proto_, kDrawnSeed).status().message()),
              HasSubstr("prompt: expected at most 127 tokens, got 128 tokens"));
}

TEST_F(RequestParserTest, TextsBeyondAnyPromptAreNotTokenized) {
  v1::TokenizeRequest request;
  request.set_text(std::string(size_t{128} * 5, 'x'));  // the longest token has five bytes
  EXPECT_TRUE(parser_.Tokenize(request).ok());
  request.set_text(std::string(size_t{128} * 5 + 1, 'x'));
  EXPECT_THAT(std::string(parser_.Tokenize(request).status().message()),
              HasSubstr("text: expected at most 127 tokens, got a text of 641 bytes"));
}

TEST_F(RequestParserTest, TokensThatNoMessageHoldsAreNotDetokenized) {
  v1::DetokenizeRequest request;
  for (int i = 0; i < 1024; ++i) request.add_token_ids(0xff);  // three bytes each as U+FFFD
  const absl::StatusOr<std::string> text = parser_.Detokenize(request);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(text->size(), 3072u);
  request.add_token_ids('x');
  EXPECT_THAT(std::string(parser_.Detokenize(request).status().message()),
              HasSubstr("token_ids: expected tokens of at most 1024 bytes, got 1025 bytes"));
}

}  // namespace
}  // namespace tessera
