#include "server/api_keys.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "server/status_details.h"
#include "server/tenant_quotas.h"

namespace tessera {
namespace {

using testing::HasSubstr;

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
      {"\ntenant\n", "line 2: expected a tenant's name"},
      {"tenant a\ntenant a\n", "line 2: expected each tenant once, got \"a\""},
      {"tenant a fast\n", "expected LIMIT=NUMBER, got \"fast\""},
      {"tenant a requests_per_second=x\n", "expected LIMIT=NUMBER"},
      {"tenant a requests_per_second=nan\n", "expected LIMIT=NUMBER"},
      {"tenant a requests_per_second=0\n", "expected a number above 0"},
      {"tenant a concurrent_sequences=1.5\n", "a whole number"},
      {"tenant a most_urgent_priority=0.5\n", "expected a priority"},
      {"tenant a speed=1\n", "expected requests_per_second"},
      {"tenant a\nkey one a\n",
       "line 2: expected a SHA-256 of 64 hexadecimal digits, got \"3 char"},
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
  const auto keys = ApiKeys::Parse("tenant a\nkey secret a\n");
  EXPECT_EQ(std::string(keys.status().message()).find("secret"), std::string::npos);
}

TEST(ApiKeys, SurvivesRandomBytes) {
  std::mt19937 random(1);
  const std::string valid =
      "tenant a requests_per_second=2 tokens_per_minute=3\n" + Line(kOne, "a");
  for (int i = 0; i < 20'000; ++i) {
    std::string text = valid;
    for (int edits = 1 + static_cast<int>(random() % 4); edits > 0; --edits) {
      text[random() % text.size()] = static_cast<char>(random());
    }
    const auto keys = ApiKeys::Parse(text);
    EXPECT_TRUE(!keys.ok() || !keys->tenants().empty());
  }
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

TEST(TenantQuotas, RefusesPrioritiesThatAreTooUrgent) {
  TenantQuotas quotas;
  const TenantLimits limits{.most_urgent_priority = 0};
  EXPECT_TRUE(quotas.Admit("a", limits, {.priority = 0}, 0).ok());
  EXPECT_THAT(std::string(quotas.Admit("a", limits, {.priority = -1}, 0).status().message()),
              HasSubstr("most_urgent_priority: expected priority 0 or above, got -1"));
}

}  // namespace
}  // namespace tessera
