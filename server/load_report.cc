#include "server/load_report.h"

#include <algorithm>
#include <cmath>

#include "xds/data/orca/v3/orca_load_report.pb.h"

namespace tessera {
namespace {

constexpr double kMemorySeconds = 5;

}  // namespace

void LoadReporter::Rate::Decay(double seconds) {
  per_second *= std::exp(-seconds / kMemorySeconds);
}

void LoadReporter::Rate::Count() { per_second += 1 / kMemorySeconds; }

std::string LoadReporter::Report(const CurrentLoad& load, bool is_error, TimeNs now) {
  xds::data::orca::v3::OrcaLoadReport report;
  report.set_application_utilization(load.sequences);
  (*report.mutable_named_metrics())["kv_cache_utilization"] = load.kv_pages;
  MutexLock lock(&mutex_);
  const double seconds = static_cast<double>(std::max<TimeNs>(0, now - last_)) * 1e-9;
  last_ = std::max(last_, now);
  for (Rate* rate : {&answers_, &errors_}) rate->Decay(seconds);
  answers_.Count();
  if (is_error) errors_.Count();
  report.set_rps_fractional(answers_.per_second);
  report.set_eps(errors_.per_second);
  return report.SerializeAsString();
}

}  // namespace tessera
