#include "server/stop_matcher.h"

#include <time.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

struct Filtered {
  std::string text;
  std::optional<int> stop;

  bool operator==(const Filtered&) const = default;
};

// What the whole text comes to, by definition: the first end, then the longest, then the first
// listed.
Filtered FilterBySearch(const std::vector<std::string>& stops, const std::string& text) {
  for (size_t end = 1; end <= text.size(); ++end) {
    std::optional<int> best;
    for (size_t i = 0; i < stops.size(); ++i) {
      const bool ends_here = std::string_view(text).substr(0, end).ends_with(stops[i]);
      if (ends_here && (!best || stops[i].size() > stops[*best].size())) best = static_cast<int>(i);
    }
    if (best) return {text.substr(0, end - stops[*best].size()), best};
  }
  return {text, std::nullopt};
}

// The longest suffix of `text` that is a proper prefix of a stop string, by definition.
size_t HeldBySearch(const std::vector<std::string>& stops, const std::string& text) {
  for (size_t start = 0; start < text.size(); ++start) {
    const std::string_view suffix = std::string_view(text).substr(start);
    for (const std::string& stop : stops) {
      if (stop.size() > suffix.size() && stop.starts_with(suffix)) return suffix.size();
    }
  }
  return 0;
}

Filtered FilterInPieces(const std::vector<std::string>& stops,
                        const std::vector<std::string_view>& pieces) {
  StopFilter filter(std::make_shared<const StopMatcher>(stops));
  Filtered result;
  for (const std::string_view piece : pieces) {
    result.stop = filter.Append(piece, &result.text);
    if (result.stop) return result;
  }
  filter.Flush(&result.text);
  return result;
}

std::string RandomText(std::mt19937* random, int max_size) {
  std::string text(1 + (*random)() % max_size, 'a');
  for (char& c : text) c = static_cast<char>('a' + (*random)() % 2);
  return text;
}

TEST(StopMatcherTest, FindsAStopStringCutAtEveryPairOfPlaces) {
  const std::string text = "say: \n\nUser: hello";
  const std::vector<std::string> stops = {"\n\nUser:", "nothing"};
  for (size_t first = 0; first <= text.size(); ++first) {
    for (size_t second = first; second <= text.size(); ++second) {
      const std::string_view view = text;
      const Filtered result = FilterInPieces(
          stops, {view.substr(0, first), view.substr(first, second - first), view.substr(second)});
      ASSERT_EQ(result.text, "say: ") << first << " " << second;
      ASSERT_EQ(result.stop, 0) << first << " " << second;
    }
  }
}

TEST(StopMatcherTest, FirstEndWinsThenTheLongestThenTheFirstListed) {
  EXPECT_EQ(FilterInPieces({"abcd", "bc"}, {"xabcd"}), (Filtered{"xa", 1}));
  EXPECT_EQ(FilterInPieces({"c", "bc", "abc"}, {"xabc"}), (Filtered{"x", 2}));
  EXPECT_EQ(FilterInPieces({"no", "ab", "ab"}, {"xab"}), (Filtered{"x", 1}));
}

TEST(StopMatcherTest, LetsThroughWhatCannotMatchAnyMore) {
  StopFilter filter(std::make_shared<const StopMatcher>(std::vector<std::string>{"aab"}));
  std::string output;
  EXPECT_EQ(filter.Append("xaa", &output), std::nullopt);
  EXPECT_EQ(output, "x");
  EXPECT_EQ(filter.Append("a", &output), std::nullopt);
  EXPECT_EQ(output, "xa");
  EXPECT_EQ(filter.Append("c", &output), std::nullopt);
  EXPECT_EQ(output, "xaaac");
}

TEST(StopMatcherTest, WithoutStopStringsEverythingPasses) {
  EXPECT_EQ(FilterInPieces({}, {"any", "", "thing"}), (Filtered{"anything", std::nullopt}));
}

// Two letters make overlapping strings and false starts common.
TEST(StopMatcherTest, AgreesWithPlainSearchOnRandomTexts) {
  std::mt19937 random(20250101);
  int num_matches = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::vector<std::string> stops(1 + random() % 4);
    for (std::string& stop : stops) stop = RandomText(&random, 6);
    const std::string text = RandomText(&random, 24);

    StopFilter filter(std::make_shared<const StopMatcher>(stops));
    const Filtered expected = FilterBySearch(stops, text);
    Filtered actual;
    for (size_t begin = 0; begin < text.size() && !actual.stop;) {
      const size_t size = 1 + random() % 5;
      actual.stop = filter.Append(std::string_view(text).substr(begin, size), &actual.text);
      begin = std::min(begin + size, text.size());
      if (actual.stop) break;
      const std::string read = text.substr(0, begin);
      ASSERT_EQ(actual.text, read.substr(0, begin - HeldBySearch(stops, read)))
          << "holds back too much or too little, round " << round;
    }
    if (!actual.stop) filter.Flush(&actual.text);
    ASSERT_EQ(actual, expected) << "text " << text << " round " << round;
    num_matches += expected.stop.has_value();
  }
  EXPECT_GT(num_matches, 5'000);
  EXPECT_LT(num_matches, 19'500);
}

// The thread's own time, so that others on the machine do not count.
double CpuSeconds() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// The least of three runs over so many bytes, in pieces as short as tokens.
double SecondsToFilter(const std::vector<std::string>& stops, size_t num_bytes) {
  const std::string text(num_bytes, 'a');
  std::vector<std::string_view> pieces;
  for (size_t begin = 0; begin < num_bytes; begin += 4) {
    pieces.push_back(std::string_view(text).substr(begin, 4));
  }
  double seconds = 1e9;
  for (int run = 0; run < 3; ++run) {
    const double start = CpuSeconds();
    EXPECT_EQ(FilterInPieces(stops, pieces), (Filtered{text, std::nullopt}));
    seconds = std::min(seconds, CpuSeconds() - start);
  }
  return seconds;
}

// 16 strings of 256 bytes, all of which nearly match at every byte.
TEST(StopMatcherTest, TakesLinearTimeOnHostileText) {
  std::vector<std::string> stops;
  for (int i = 0; i < 16; ++i) stops.push_back(std::string(255, 'a') + static_cast<char>('b' + i));
  const double seconds = SecondsToFilter(stops, 64 << 10);
  EXPECT_LT(SecondsToFilter(stops, 512 << 10), 16 * seconds) << "8 times the text";
}

TEST(StopMatcherDeathTest, RefusesAnEmptyStopString) {
  EXPECT_DEATH(StopMatcher({"a", ""}), "empty stop string");
}

}  // namespace
}  // namespace tessera
