#include "server/api_keys.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <iterator>
#include <random>

#include "server/status_details.h"
#include "server/tenant_quotas.h"
#include "tests/fuzz/api_keys_fuzz.h"

namespace tessera {
namespace {

using testing::HasSubstr;
using testing::Not;

// SHA-256 of "one" and "two".
constexpr char kOne[] = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed";
constexpr char kTwo[] = "3FC4CCFE745870E2C0D99F71F30FF0656C8DEDD41CC1D7D3D376B0DBE685E2F3";
constexpr TimeNs kSecond = 1'000'000'000;

std::string Line(const std::string& digest, const std::string& tenant) {
  return "key " + digest + " " + tenant + "\n";
}

TEST(ApiKeys, FindsTheTenantOfAKeyWhateverTheHashsCase) {
  const auto keys = ApiKeys::Parse(
      "# who may call\n\ntenant a requests_per_second=2.5 concurrent_sequences=3  # small\n"
      "tenant b tokens_per_minute=600 most_urgent_priority=-1\r\n" +
      Line(kOne, "a") + Line(kTwo, "b"));
  ASSERT_TRUE(keys.ok()) << keys.status();
  EXPECT_EQ(keys->TenantOf("one"), "a");
  EXPECT_EQ(keys->TenantOf("two"), "b");
  for (const char* other : {"", "three", "One", "one ", kOne}) {
    EXPECT_EQ(keys->TenantOf(other), std::nullopt) << other;
  }
  EXPECT_EQ(keys->limits("a").requests_per_second, 2.5);
  EXPECT_EQ(keys->limits("a").concurrent_sequences, 3);
  EXPECT_EQ(keys->limits("a").tokens_per_minute, 0);
  EXPECT_EQ(keys->limits("b").tokens_per_minute, 600);
  EXPECT_EQ(keys->limits("b").most_urgent_priority, -1);
}

TEST(ApiKeys, SaysWhatIsWrongWithAFileAndWhere) {
  const struct {
    std::string text, message;
  } cases[] = {
      {"", "expected at least one key, got none"},
      {"tenant a\n", "expected at least one key, got none"},
      {"user a\n", "line 1: expected \"tenant\" or \"key\", got \"user\""},
      {"\ntenant\n", "line 2: expected a tenant's name of 1 to 128 printable ASCII characters"},
      {"tenant \x01\n", "printable ASCII characters, got \"\\x01\""},
      {"tenant " + std::string(129, 'a'), "printable ASCII characters, got 129 characters"},
      {"tenant a\ntenant a\n", "line 2: expected each tenant once, got \"a\""},
      {"tenant a fast\n", "expected LIMIT=NUMBER, got \"fast\""},
      {"tenant a requests_per_second=x\n", "expected LIMIT=NUMBER"},
      {"tenant a requests_per_second=nan\n", "expected LIMIT=NUMBER"},
      {"tenant a requests_per_second=0\n", "expected a number above 0"},
      {"tenant a concurrent_sequences=1.5\n", "a whole number"},
      {"tenant a most_urgent_priority=0.5\n", "expected a priority"},
      {"tenant a speed=1\n", "expected requests_per_second"},
      {"tenant a\nkey one a\n", "line 2: expected a SHA-256 of 64 hexadecimal digits, got 3 char"},
      {"key " + std::string(kOne) + " a\n", "expected a tenant declared above, got \"a\""},
      {"tenant a\nkey " + std::string(kOne) + "\n", "expected key SHA256 TENANT"},
      {"tenant a\n" + Line(kOne, "a") + Line(kOne, "a"), "line 3: expected each key once"},
  };
  for (const auto& test : cases) {
    const auto keys = ApiKeys::Parse(test.text);
    ASSERT_FALSE(keys.ok()) << test.text;
    EXPECT_THAT(std::string(keys.status().message()), HasSubstr(test.message));
  }
  EXPECT_THAT(std::string(ApiKeys::ReadFile("/nowhere").status().message()),
              HasSubstr("api-keys: expected a readable file, got /nowhere"));
}

// A key written where its hash belongs must not come back in a message that is logged.
TEST(ApiKeys, NeverShowsWhatMayBeAKey) {
  const std::string secret = "secret-of-32-characters-or-longer";
  for (const std::string& text :
       {"tenant a\nkey secret a\n" + std::string(), secret + " a\n", "tenant a " + secret + "\n",
        "tenant a\nkey a " + secret, "tenant a\n" + Line(kOne, secret)}) {
    const auto keys = ApiKeys::Parse(text);
    EXPECT_THAT(std::string(keys.status().message()), Not(HasSubstr("secret"))) << text;
  }
}

std::string Mutant(std::string text, std::mt19937_64* random) {
  constexpr std::string_view kFormat = "\n #=0123456789abcdef.+-";
  const auto below = [random](size_t limit) { return (*random)() % limit; };
  for (size_t edits = 1 + below(4); edits > 0 && !text.empty(); --edits) {
    const size_t place = below(text.size()), length = below(24);
    switch (below(4)) {
      case 0:
        text[place] = static_cast<char>(below(256));
        break;
      case 1:
        text[place] = kFormat[below(kFormat.size())];
        break;
      case 2:
        text.erase(place, length);
        break;
      default:
        text.insert(place, text.substr(below(text.size()), length));
        break;
    }
  }
  return text;
}

TEST(ApiKeys, NoMutationOfAFileIsMoreThanAStatus) {
  const std::string corpus[] = {
      "tenant a requests_per_second=2 tokens_per_minute=3\n" + Line(kOne, "a"),
      "# keys\r\ntenant a\ttenant\r\n" + Line(kTwo, "a"),
      "tenant a concurrent_sequences=2147483647 most_urgent_priority=-1000000 # b\ntenant b\n" +
          Line(kOne, "a") + Line(kTwo, "b"),
      "tenant x tokens_per_minute=1e12 requests_per_second=1e-9\n" + Line(kTwo, "x") + "\n\n",
  };
  const auto accepts = [](const std::string& text) {
    return FuzzApiKeys(reinterpret_cast<const uint8_t*>(text.data()), text.size());
  };
  constexpr int kNumMutants = 20'000;
  int num_accepted = 0;
  for (int seed = 0; seed < kNumMutants; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(static_cast<uint64_t>(seed));
    num_accepted += accepts(Mutant(corpus[seed % std::size(corpus)], &random));
  }
  // Enough of either that both ways were walked.
  EXPECT_GT(num_accepted, kNumMutants / 50);
  EXPECT_LT(num_accepted, kNumMutants * 3 / 4);
}

TEST(TenantQuotas, RefusesWhatWouldRunBesideTooMany) {
  TenantQuotas quotas;
  const TenantLimits limits{.concurrent_sequences = 3};
  const auto first = quotas.Admit("a", limits, {.num_sequences = 2}, 0);
  ASSERT_TRUE(first.ok());
  const auto refused = quotas.Admit("a", limits, {.num_sequences = 2}, 0);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr("tenant a: concurrent_sequences: expected at most 3, got 4"));
  EXPECT_EQ(RetryPushback(refused.status()), std::chrono::milliseconds(-1));
  EXPECT_TRUE(quotas.Admit("b", limits, {.num_sequences = 2}, 0).ok());
  { const auto second = quotas.Admit("a", limits, {.num_sequences = 1}, 0); }
  EXPECT_TRUE(quotas.Admit("a", limits, {.num_sequences = 1}, 0).ok());
}

TEST(TenantQuotas, BoundsAnswersThatAreNotRead) {
  TenantQuotas quotas;
  const TenantLimits limits{.concurrent_sequences = 1};
  std::vector<QuotaLease> unread;
  for (int i = 0; i < 10; ++i) {
    auto lease = quotas.Admit("a", limits, {}, 0);
    ASSERT_TRUE(lease.ok()) << i << ": " << lease.status();
    lease->EndSequences();
    unread.push_back(*std::move(lease));
  }
  EXPECT_THAT(
      std::string(quotas.Admit("a", limits, {}, 0).status().message()),
      HasSubstr("concurrent_sequences: expected at most 10 answers to be made or read, got 11"));
  unread.pop_back();
  EXPECT_TRUE(quotas.Admit("a", limits, {}, 0).ok());
}

TEST(TenantQuotas, CountsRequestsOfASecond) {
  TenantQuotas quotas;
  const TenantLimits limits{.requests_per_second = 2};
  EXPECT_TRUE(quotas.Admit("a", limits, {}, kSecond).ok());
  EXPECT_TRUE(quotas.Admit("a", limits, {}, kSecond).ok());
  EXPECT_THAT(std::string(quotas.Admit("a", limits, {}, kSecond).status().message()),
              HasSubstr("requests_per_second: expected at most 2, got one more; allowed again in "
                        "0.5 s"));
  EXPECT_TRUE(quotas.Admit("a", limits, {}, kSecond * 3 / 2).ok());
  EXPECT_FALSE(quotas.Admit("a", limits, {}, kSecond * 3 / 2).ok());
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(quotas.Admit("a", limits, {}, 100 * kSecond).ok());
  EXPECT_FALSE(quotas.Admit("a", limits, {}, 100 * kSecond).ok()) << "more than a second's worth";
}

TEST(TenantQuotas, ChecksRatesWithoutCharging) {
  TenantQuotas quotas;
  const TenantLimits limits{.requests_per_second = 1};
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(quotas.CheckRates("a", limits, 0).ok());
  EXPECT_TRUE(quotas.Admit("a", limits, {}, 0).ok());
  EXPECT_EQ(quotas.CheckRates("a", limits, 0), quotas.Admit("a", limits, {}, 0).status());
  EXPECT_EQ(quotas.CheckRates("a", limits, 0).code(), absl::StatusCode::kResourceExhausted);
}

TEST(TenantQuotas, ForgetsWhatWasTakenWithoutALimit) {
  TenantQuotas quotas;
  const TenantLimits limits{.requests_per_second = 1, .tokens_per_minute = 600};
  EXPECT_TRUE(quotas.Admit("a", limits, {.prompt_tokens = 1000}, 0).ok());
  EXPECT_FALSE(quotas.CheckRates("a", limits, 0).ok());
  for (int i = 0; i < 10; ++i) {
    EXPECT_TRUE(quotas.Admit("a", TenantLimits(), {.prompt_tokens = 1000}, kSecond).ok());
  }
  EXPECT_TRUE(quotas.Admit("a", limits, {}, kSecond).ok());
}

TEST(TenantQuotas, RefusesWhoIsInDebtForTokensUntilTheMinuteHasPaid) {
  TenantQuotas quotas;
  const TenantLimits limits{.tokens_per_minute = 600};
  auto lease = quotas.Admit("a", limits, {.prompt_tokens = 500}, 0);
  ASSERT_TRUE(lease.ok());
  lease->ChargeCompletion(150);  // 50 too many: 5 s at 10 a second
  EXPECT_THAT(std::string(quotas.Admit("a", limits, {}, 0).status().message()),
              HasSubstr("tokens_per_minute: expected at most 600, got one more; allowed again in "
                        "5 s"));
  EXPECT_FALSE(quotas.Admit("a", limits, {}, 4 * kSecond).ok());
  EXPECT_TRUE(quotas.Admit("a", limits, {}, 6 * kSecond).ok());
}

TEST(TenantQuotas, ARefundLeavesTheTenantAsItWas) {
  TenantQuotas quotas;
  const TenantLimits limits{
      .requests_per_second = 1, .tokens_per_minute = 600, .concurrent_sequences = 2};
  const TenantQuotas::Use use{.num_sequences = 2, .prompt_tokens = 500};
  for (int i = 0; i < 5; ++i) {
    auto refused = quotas.Admit("a", limits, use, 0);
    ASSERT_TRUE(refused.ok()) << i << ": " << refused.status();
    refused->Refund();
  }
  auto lease = quotas.Admit("a", limits, use, 0);
  ASSERT_TRUE(lease.ok()) << lease.status();
  *lease = QuotaLease();
  EXPECT_FALSE(quotas.Admit("a", limits, use, 0).ok()) << "five refunds, and a second's worth";
  EXPECT_TRUE(quotas.Admit("a", limits, use, kSecond).ok()) << "100 of 600 tokens are left";
  EXPECT_FALSE(quotas.Admit("a", limits, use, 2 * kSecond).ok());
}

TEST(TenantQuotas, RefusesPrioritiesThatAreTooUrgent) {
  TenantQuotas quotas;
  const TenantLimits limits{.most_urgent_priority = 0};
  EXPECT_TRUE(quotas.Admit("a", limits, {.priority = 0}, 0).ok());
  EXPECT_THAT(std::string(quotas.Admit("a", limits, {.priority = -1}, 0).status().message()),
              HasSubstr("most_urgent_priority: expected priority 0 or above, got -1"));
}

}  // namespace
}  // namespace tessera
