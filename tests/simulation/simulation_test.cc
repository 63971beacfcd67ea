#include "tests/simulation/simulation.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

// simulation_test [--seed N] [--seeds COUNT]: one seed, or the first COUNT, with one step in flight
// and with two.

namespace tessera {
namespace {

uint64_t first_seed = 1;
uint64_t num_seeds = 4000;
char replay_hint[128];

// A broken invariant aborts: say how to see it again.
void PrintReplayHint(int) {
  const ssize_t written = write(STDERR_FILENO, replay_hint, std::strlen(replay_hint));
  static_cast<void>(written);
}

void Print(const SimulationTotals& totals) {
  std::printf(
      "%ld steps, %ld overlapped, %ld requests (%ld refused), %ld tokens, %ld preemptions, "
      "%ld cached tokens, %ld page copies, %ld of %ld drafts accepted\nends:",
      totals.num_steps, totals.num_overlapped_steps, totals.num_requests, totals.num_refused,
      totals.num_tokens, totals.num_preemptions, totals.num_cached_tokens, totals.num_page_copies,
      totals.num_drafts_accepted, totals.num_drafts);
  for (int i = 0; i < 16; ++i) std::printf(" %ld", totals.num_ends[i]);
  std::printf("\n");
}

// The worlds must stay harsh enough to mean something.
void ExpectHarsh(const SimulationTotals& totals) {
  EXPECT_GT(totals.num_preemptions, totals.num_requests / 20);
  EXPECT_GT(totals.num_cached_tokens, totals.num_requests);
  EXPECT_GT(totals.num_page_copies, totals.num_requests / 20);
  for (const FinishReason reason :
       {FinishReason::kStopToken, FinishReason::kStopString, FinishReason::kLength,
        FinishReason::kCancelled, FinishReason::kDeadline, FinishReason::kNonFinite,
        FinishReason::kNoTokenLeft}) {
    EXPECT_GT(totals.num_ends[static_cast<int>(reason)], 50) << static_cast<int>(reason);
  }
}

SimulationTotals RunSeeds(int max_in_flight) {
  SimulationTotals totals;
  for (uint64_t seed = first_seed; seed < first_seed + num_seeds; ++seed) {
    std::snprintf(replay_hint, sizeof(replay_hint),
                  "replay: simulation_test --seed %lu (%d in flight)\n", seed, max_in_flight);
    totals.Add(Simulation(seed, max_in_flight).Run());
  }
  Print(totals);
  return totals;
}

TEST(Simulation, EverySequenceGetsWhatItWouldAlone) {
  const SimulationTotals totals = RunSeeds(1);
  EXPECT_EQ(totals.num_overlapped_steps, 0);
  if (num_seeds < 1000) return;
  ExpectHarsh(totals);
  EXPECT_GT(totals.num_drafts_accepted, totals.num_requests / 20);
  EXPECT_GT(totals.num_drafts, totals.num_drafts_accepted * 3 / 2);
}

TEST(Simulation, EverySequenceGetsWhatItWouldAloneWithTwoStepsInFlight) {
  const SimulationTotals totals = RunSeeds(2);
  if (num_seeds < 1000) return;
  ExpectHarsh(totals);
  EXPECT_GT(totals.num_overlapped_steps, totals.num_steps / 3);
}

void ReadArguments(int argc, char** argv) {
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    const uint64_t number = std::strtoull(argv[i + 1], nullptr, 10);
    if (name == "--seed") first_seed = number;
    num_seeds = name == "--seeds" ? number : 1;
  }
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  tessera::ReadArguments(argc, argv);
  std::signal(SIGABRT, tessera::PrintReplayHint);
  std::signal(SIGSEGV, tessera::PrintReplayHint);
  return RUN_ALL_TESTS();
}
