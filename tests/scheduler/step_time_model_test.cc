#include "scheduler/step_time_model.h"

#include <gtest/gtest.h>

#include <random>

namespace tessera {
namespace {

constexpr TimeNs kMs = 1'000'000;

// A machine whose steps take 3 ms, 0.5 ms a row and 1 us for 100 pairs.
TimeNs TrueTime(const StepWork& work, double slowness = 1.0) {
  const double ms = 3.0 + 0.5 * work.num_rows + 1e-5 * static_cast<double>(work.num_pairs);
  return static_cast<TimeNs>(slowness * ms * kMs);
}

StepWork RandomWork(std::mt19937* engine) {
  StepWork work;
  const int num_decodes = static_cast<int>((*engine)() % 32);
  for (int i = 0; i < num_decodes; ++i) work.AddRows(static_cast<int>((*engine)() % 2000), 1);
  const int depth = static_cast<int>((*engine)() % 4000);
  work.AddRows(depth, 1 + static_cast<int>((*engine)() % 256));
  return work;
}

// `tolerance`: as a part of the time.
void ExpectPrediction(const StepTimeModel& model, const StepWork& work, TimeNs time,
                      double tolerance) {
  const auto expected = static_cast<double>(time);
  EXPECT_NEAR(static_cast<double>(model.Predict(work)), expected, tolerance * expected)
      << work.num_rows << " rows";
}

TEST(StepWork, CountsEachRowsKeys) {
  StepWork work;
  work.AddRows(0, 3);   // rows at 0, 1, 2 see 1, 2, 3 keys
  work.AddRows(10, 1);  // row at 10 sees 11
  EXPECT_EQ(work.num_rows, 4);
  EXPECT_EQ(work.num_pairs, 17);
}

TEST(StepTimeModel, LearnsTheCostOfRowsAndPairsThroughNoise) {
  std::mt19937 engine(1);
  StepTimeModel model;
  std::uniform_real_distribution<double> noise(0.9, 1.1);
  for (int i = 0; i < 300; ++i) {
    const StepWork work = RandomWork(&engine);
    model.Observe(work, TrueTime(work, noise(engine)));
  }
  for (int i = 0; i < 100; ++i) {
    const StepWork work = RandomWork(&engine);
    ExpectPrediction(model, work, TrueTime(work), 0.05);
  }
}

TEST(StepTimeModel, FollowsAMachineThatSlowsDown) {
  std::mt19937 engine(2);
  StepTimeModel model;
  for (int i = 0; i < 600; ++i) {
    const StepWork work = RandomWork(&engine);
    model.Observe(work, TrueTime(work, i < 300 ? 1.0 : 3.0));
  }
  const StepWork work = RandomWork(&engine);
  ExpectPrediction(model, work, TrueTime(work, 3.0), 0.05);
}

// Nothing can be learnt of rows from such steps; what was known must not be lost either.
TEST(StepTimeModel, KeepsWhatItKnowsOverManyStepsAllAlike) {
  std::mt19937 engine(3);
  StepTimeModel model;
  for (int i = 0; i < 300; ++i) {
    const StepWork work = RandomWork(&engine);
    model.Observe(work, TrueTime(work));
  }
  StepWork alike;
  alike.AddRows(100, 1);
  for (int i = 0; i < 100'000; ++i) model.Observe(alike, TrueTime(alike, i % 2 == 0 ? 0.95 : 1.05));
  StepWork chunk = alike;
  chunk.AddRows(0, 200);
  ExpectPrediction(model, chunk, TrueTime(chunk), 0.3);
}

// Decoding alone for minutes, with every step's time off by chance, must not shift the rest.
TEST(StepTimeModel, NoiseDoesNotDrift) {
  std::mt19937 engine(4);
  std::uniform_real_distribution<double> noise(0.8, 1.2);
  StepTimeModel model;
  StepWork full;
  full.AddRows(0, 128);
  StepWork decode;
  decode.AddRows(500, 1);
  for (int i = 0; i < 20; ++i) model.Observe(full, TrueTime(full, noise(engine)));
  for (int i = 0; i < 50'000; ++i) model.Observe(decode, TrueTime(decode, noise(engine)));
  for (const StepWork& work : {full, decode}) {
    ExpectPrediction(model, work, TrueTime(work), 0.3);
  }
}

TEST(StepTimeModel, LeavesOutAStepThatSeemsToTakeNoTime) {
  std::mt19937 engine(5);
  StepTimeModel model;
  for (int i = 0; i < 100; ++i) {
    const StepWork work = RandomWork(&engine);
    model.Observe(work, TrueTime(work, i % 20 == 19 ? 0.02 : 1.0));
  }
  const StepWork work = RandomWork(&engine);
  ExpectPrediction(model, work, TrueTime(work), 0.05);
}

TEST(StepTimeModel, LearnsAnewOnAMachineLikeNoneBefore) {
  std::mt19937 engine(6);
  StepTimeModel model;
  for (int i = 0; i < 200; ++i) {
    const StepWork work = RandomWork(&engine);
    model.Observe(work, TrueTime(work, i < 50 ? 1.0 : 50.0));
  }
  const StepWork work = RandomWork(&engine);
  ExpectPrediction(model, work, TrueTime(work, 50.0), 0.05);
}

// A daemon's first prompts: full steps, then one that decodes beside fewer rows and is held up.
TEST(StepTimeModel, AStepThatIsHeldUpDoesNotTurnFewerRowsIntoMoreTime) {
  StepTimeModel model;
  for (int depth = 0; depth < 1024; depth += 128) {
    StepWork full;
    full.AddRows(depth, 128);
    model.Observe(full, TrueTime(full));
  }
  StepWork mixed;
  mixed.AddRows(1024, 2);
  mixed.AddRows(0, 90);
  model.Observe(mixed, TrueTime(mixed, 3.0));
  StepWork decodes;
  decodes.AddRows(1024, 2);
  for (int i = 0; i < 20; ++i) {
    StepWork full;
    full.AddRows(1024 + i, 2);
    full.AddRows(100 * i, 126);
    ExpectPrediction(model, full, TrueTime(full), 0.2);
    EXPECT_LT(model.Predict(decodes), TrueTime(full) / 4);
    model.Observe(full, TrueTime(full));
  }
}

TEST(StepTimeModel, IsReadyAfterAFewStepsAndIgnoresStepsWithoutTime) {
  StepTimeModel model;
  StepWork work;
  work.AddRows(0, 1);
  for (int i = 0; i < 100; ++i) model.Observe(work, 0);
  EXPECT_FALSE(model.is_ready());
  for (int i = 0; i < 8; ++i) model.Observe(work, kMs);
  EXPECT_TRUE(model.is_ready());
  EXPECT_NEAR(static_cast<double>(model.Predict(work)), kMs, 0.01 * kMs);
}

}  // namespace
}  // namespace tessera
