#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "server/call_metadata.h"
#include "server/host_port.h"
#include "server/load_report.h"
#include "server/log.h"
#include "server/process_stats.h"
#include "server/random.h"
#include "server/status_details.h"
#include "server/supervisor.h"
#include "server/tenant_table.h"
#include "xds/data/orca/v3/orca_load_report.pb.h"

namespace tessera {
namespace {

TEST(HostPortTest, ReadsNamesAndBothAddressFamilies) {
  EXPECT_EQ(ParseHostPort("localhost:0")->ToString(), "localhost:0");
  EXPECT_EQ(ParseHostPort("0.0.0.0:65535")->port, 65535);
  EXPECT_EQ(ParseHostPort("[::]:80")->host, "::");
  EXPECT_EQ(ParseHostPort("[::]:80")->ToString(), "[::]:80");
  for (const char* bad : {"", ":80", "host", "host:", "host:x", "host:-1", "host:65536", "::1:80",
                          "[]:80", "host:80 "}) {
    EXPECT_FALSE(ParseHostPort(bad).ok()) << bad;
  }
}

TEST(TenantTableTest, GivesEachNameOneSmallId) {
  TenantTable table(4);
  const auto first = table.Acquire("a");
  const auto again = table.Acquire("a");
  const auto other = table.Acquire("b");
  ASSERT_TRUE(first.ok() && again.ok() && other.ok());
  EXPECT_EQ(first->id(), again->id());
  EXPECT_NE(first->id(), other->id());
  EXPECT_EQ(table.NameOf(other->id()), "b");
}

TEST(TenantTableTest, IsBoundedAndReusesTheIdThatIsIdleLongest) {
  TenantTable table(2);
  auto a = table.Acquire("a");
  auto b = table.Acquire("b");
  ASSERT_TRUE(a.ok() && b.ok());
  const TenantId id_of_b = b->id();
  EXPECT_TRUE(absl::IsResourceExhausted(table.Acquire("c").status()));
  *b = TenantLease();
  *a = TenantLease();
  const auto c = table.Acquire("c");
  ASSERT_TRUE(c.ok());
  EXPECT_EQ(c->id(), id_of_b);
  EXPECT_EQ(table.NameOf(id_of_b), "c");
  EXPECT_NE(table.Acquire("b")->id(), id_of_b);
}

TEST(TenantTableTest, RefusesNamesThatCouldHarmALog) {
  TenantTable table(2);
  for (const std::string& bad : {std::string(), std::string(129, 'x'), std::string("a b"),
                                 std::string("a\nb"), std::string("\xff")}) {
    EXPECT_TRUE(absl::IsInvalidArgument(table.Acquire(bad).status())) << bad;
  }
}

TEST(TraceIdTest, ReadsOnlyWellFormedHeaders) {
  const std::string id = "4bf92f3577b34da6a3ce929d0e0e4736";
  EXPECT_EQ(ParseTraceparent("00-" + id + "-00f067aa0ba902b7-01").trace_id, id);
  EXPECT_EQ(ParseTraceparent("cc-" + id + "-00f067aa0ba902b7-01-later").trace_id, id);
  for (const std::string& bad :
       {std::string(), id, "00-" + id, "00-" + std::string(32, '0') + "-00f067aa0ba902b7-01",
        "00-" + std::string(32, 'X') + "-00f067aa0ba902b7-01",
        "00-" + id + "\n00f067aa0ba902b7-01"}) {
    EXPECT_EQ(ParseTraceparent(bad).trace_id, "") << bad;
  }
}

TEST(LogTest, TextQuotesWhatCouldForgeALine) {
  EXPECT_EQ(FormatLogText("done", {{"id", "ab"}, {"n", int64_t{3}}, {"ms", 1.5}}),
            "done id=ab n=3 ms=1.5");
  EXPECT_EQ(FormatLogText("e", {{"v", "two words"}, {"w", ""}}), "e v=\"two words\" w=\"\"");
  EXPECT_EQ(FormatLogText("e", {{"v", "x\nERROR forged"}}), "e v=\"x\\nERROR forged\"");
}

TEST(LogTest, JsonLinesParseWhateverTheyHold) {
  const std::string line =
      FormatLogJson(1500, LogLevel::kWarn, "e", {{"bytes", "\xff\"\n"}, {"n", int64_t{3}}});
  EXPECT_EQ(line.find('\n'), std::string::npos);
  const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  ASSERT_FALSE(json.is_discarded()) << line;
  EXPECT_EQ(json["ts"], 1.5);
  EXPECT_EQ(json["level"], "warn");
  EXPECT_EQ(json["event"], "e");
  EXPECT_EQ(json["bytes"], "\xEF\xBF\xBD\"\n");
  EXPECT_EQ(json["n"], 3);
}

TEST(RandomTest, RequestIdsAreHexAndDiffer) {
  const std::string id = RandomRequestId();
  EXPECT_EQ(id.size(), 32u);
  EXPECT_EQ(id.find_first_not_of("0123456789abcdef"), std::string::npos);
  EXPECT_NE(id, RandomRequestId());
}

TEST(StatusDetailsTest, DelaysSurviveTheRoundTrip) {
  const absl::Status status = Overloaded("l", "m", std::chrono::milliseconds(2345));
  EXPECT_EQ(RetryPushback(status), std::chrono::milliseconds(2345));
  EXPECT_EQ(RetryPushback(absl::InternalError("x")), std::nullopt);
  EXPECT_TRUE(ToGrpcStatus(absl::InternalError("x")).error_details().empty());
}

TEST(LoadReporterTest, TellsLoadAndRatesThatFade) {
  constexpr TimeNs kSecond = 1'000'000'000;
  LoadReporter reporter;
  xds::data::orca::v3::OrcaLoadReport report;
  for (int i = 0; i <= 200; ++i) {  // ten a second, every other one an error, for 20 s
    const std::string text =
        reporter.Report({.sequences = 1.5, .kv_pages = 0.25}, i % 2 == 0, i * kSecond / 10);
    ASSERT_TRUE(report.ParseFromString(text));
  }
  EXPECT_EQ(report.application_utilization(), 1.5);
  EXPECT_EQ(report.named_metrics().at("kv_cache_utilization"), 0.25);
  EXPECT_NEAR(report.rps_fractional(), 10, 0.5);
  EXPECT_NEAR(report.eps(), 5, 0.5);
  ASSERT_TRUE(report.ParseFromString(reporter.Report({}, false, 120 * kSecond)));
  EXPECT_LT(report.rps_fractional(), 0.3) << "after 100 s of silence";
}

// NOLINTBEGIN(concurrency-mt-unsafe): no other thread reads the environment here.
// What systemd does with Type=notify.
TEST(SupervisorTest, IsToldTheState) {
  const int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(sa_family_t)), 0);  // any name
  socklen_t size = sizeof address;
  ASSERT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size), 0);
  const std::string name(address.sun_path + 1, size - sizeof(sa_family_t) - 1);
  ASSERT_EQ(setenv("NOTIFY_SOCKET", ("@" + name).c_str(), 1), 0);
  NotifySupervisor("READY=1");
  char state[32] = {};
  EXPECT_EQ(recv(fd, state, sizeof state, MSG_DONTWAIT), 7);
  EXPECT_STREQ(state, "READY=1");
  for (const char* other : {"", "@", "/nowhere/at/all"}) {
    ASSERT_EQ(setenv("NOTIFY_SOCKET", other, 1), 0);
    NotifySupervisor("READY=1");
  }
  ASSERT_EQ(unsetenv("NOTIFY_SOCKET"), 0);
  NotifySupervisor("READY=1");
  close(fd);
}
// NOLINTEND(concurrency-mt-unsafe)

TEST(ProcessStatsTest, ReadsThisProcess) {
  const ProcessStats stats = ReadProcessStats();
  EXPECT_GT(stats.resident_bytes, 1 << 20);
  EXPECT_GE(stats.num_open_fds, 3);
  EXPECT_GE(stats.max_fds, stats.num_open_fds);
  EXPECT_FALSE(RaiseOpenFileLimit(int64_t{1} << 40).ok());
}

}  // namespace
}  // namespace tessera
