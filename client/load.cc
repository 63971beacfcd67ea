#include "client/load.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <random>
#include <thread>

#include "client/connection.h"
#include "tessera/v1/generation.grpc.pb.h"

namespace tessera {
namespace {

using Clock = std::chrono::steady_clock;

// In an open loop requests are due whether or not others have ended: enough threads to hold them.
constexpr int kMaxOpenLoopThreads = 1024;

double MillisecondsBetween(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

int VariedLength(int length, double range, std::mt19937_64* random) {
  const double spread = range * length;
  std::uniform_real_distribution<double> lengths(length - spread, length + spread);
  return std::max(1, static_cast<int>(std::lround(lengths(*random))));
}

v1::GenerateRequest MakeRequest(const BenchOptions& options, const LoadRequest& load) {
  v1::GenerateRequest request;
  request.mutable_token_ids()->mutable_ids()->Assign(load.prompt_ids.begin(),
                                                     load.prompt_ids.end());
  request.mutable_stop()->set_max_tokens(load.output_tokens);
  request.mutable_stop()->set_ignore_eos(true);
  request.mutable_sampling()->set_temperature(options.sampled ? 1.0f : 0.0f);
  request.mutable_sampling()->set_seed(load.seed);
  return request;
}

// Takes the messages of one stream apart into times.
class ResultRecorder {
 public:
  explicit ResultRecorder(Clock::time_point due) : due_(due), last_(due) {}

  void OnMessage(const v1::GenerateResponse& message) {
    int tokens = 0;
    for (const v1::Output& output : message.outputs()) {
      tokens += output.token_ids_size();
      result_.cached_tokens = std::max<int>(result_.cached_tokens, output.usage().cached_tokens());
    }
    if (tokens == 0) return;
    const Clock::time_point now = Clock::now();
    if (result_.output_tokens == 0) {
      result_.ttft_ms = MillisecondsBetween(due_, now);
    } else {
      result_.itl_ms.push_back(MillisecondsBetween(last_, now));
    }
    result_.output_tokens += tokens;
    last_ = now;
  }

  LoadResult Finish(const grpc::Status& status) {
    result_.status = StatusCodeName(status.error_code());
    result_.e2e_ms = MillisecondsBetween(due_, Clock::now());
    return std::move(result_);
  }

 private:
  const Clock::time_point due_;
  Clock::time_point last_;
  LoadResult result_;
};

LoadResult SendOne(const Options& options, v1::GenerationService::Stub* stub,
                   const LoadRequest& load, Clock::time_point due) {
  grpc::ClientContext context;
  PrepareContext(options.connection, &context);
  ResultRecorder recorder(due);
  const auto reader = stub->GenerateStream(&context, MakeRequest(options.bench, load));
  v1::GenerateResponse message;
  while (reader->Read(&message)) recorder.OnMessage(message);
  return recorder.Finish(reader->Finish());
}

void ShowProgress(size_t num_done, size_t num_requests) {
  constexpr size_t kWidth = 40;
  static const bool is_terminal = isatty(STDERR_FILENO) == 1;
  if (!is_terminal) return;
  const std::string bar(kWidth * num_done / num_requests, '#');
  std::fprintf(stderr, "\r[%-*s] %zu/%zu%s", static_cast<int>(kWidth), bar.c_str(), num_done,
               num_requests, num_done == num_requests ? "\n" : "");
}

}  // namespace

std::vector<LoadRequest> MakeLoad(const BenchOptions& options, int32_t first_id,
                                  int32_t vocab_size) {
  std::mt19937_64 random(options.seed);
  std::uniform_int_distribution<int32_t> ids(first_id, vocab_size - 1);
  std::exponential_distribution<double> gaps(options.request_rate > 0 ? options.request_rate : 1);
  std::vector<int32_t> prefix(options.shared_prefix_tokens);
  std::mt19937_64 prefix_random;  // not of the seed: a second wave of other prompts shares it
  for (int32_t& id : prefix) id = ids(prefix_random);

  std::vector<LoadRequest> load(options.num_requests);
  std::chrono::duration<double> arrival{0};
  for (LoadRequest& request : load) {
    request.prompt_ids = prefix;
    const int length = VariedLength(options.input_tokens, options.length_range, &random);
    for (int i = 0; i < length; ++i) request.prompt_ids.push_back(ids(random));
    request.output_tokens = VariedLength(options.output_tokens, options.length_range, &random);
    request.seed = random() >> 11;
    if (options.request_rate > 0) arrival += std::chrono::duration<double>(gaps(random));
    request.arrival = arrival;
  }
  return load;
}

std::vector<LoadResult> SendLoad(const Options& options, const std::vector<LoadRequest>& load) {
  const bool open_loop = options.bench.request_rate > 0;
  const int num_threads = std::min(static_cast<int>(load.size()),
                                   open_loop ? kMaxOpenLoopThreads : options.bench.concurrency);
  const auto channel = Connect(options.connection);
  std::vector<LoadResult> results(load.size());
  std::atomic<size_t> next{0};
  std::atomic<size_t> num_done{0};
  const Clock::time_point start = Clock::now();

  const auto send_until_none_left = [&] {
    const auto stub = v1::GenerationService::NewStub(channel);
    for (size_t i = next++; i < load.size(); i = next++) {
      Clock::time_point due = Clock::now();
      if (open_loop) {
        due = start + std::chrono::duration_cast<Clock::duration>(load[i].arrival);
        std::this_thread::sleep_until(due);
      }
      results[i] = SendOne(options, stub.get(), load[i], due);
      ShowProgress(++num_done, load.size());
    }
  };
  std::vector<std::thread> threads;
  threads.reserve(num_threads);
  for (int i = 0; i < num_threads; ++i) threads.emplace_back(send_until_none_left);
  for (std::thread& thread : threads) thread.join();
  return results;
}

}  // namespace tessera
