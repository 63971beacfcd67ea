#pragma once

#include <exception>
#include <string>

#include "absl/status/status.h"

// The one place that catches: calls into a library that throws (CLI11, spdlog's set-up).

namespace tessera {

// Runs `function`. False if it threw an Error, after `handle` has seen it.
template <typename Error, typename Function, typename Handler>
bool CatchAs(const Function& function, const Handler& handle) {
  try {
    function();
    return true;
  } catch (const Error& error) {
    handle(error);
    return false;
  }
}

// Runs `function` and makes an exception a status that begins with `what`.
template <typename Function>
absl::Status NoThrow(const std::string& what, const Function& function) {
  absl::Status status;
  CatchAs<std::exception>(function, [&](const std::exception& error) {
    status = absl::InvalidArgumentError(what + ": " + error.what());
  });
  return status;
}

}  // namespace tessera
