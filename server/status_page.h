#pragma once

#include <string>

#include "scheduler/snapshot.h"
#include "server/http_listener.h"
#include "server/serving_context.h"

namespace tessera {

// The page at /, which shows the daemon at work from what /status.json and /metrics say: no
// resources from elsewhere, nothing to click.
HttpReply StatusPage();

// What the page shows, as JSON: the model, limits, load, pages, and each sequence's state and
// sizes. No request ids (an id is the right to Abort), tenants, prompts or output. 503 where the
// engine has stopped or does not answer soon.
HttpReply StatusJson(const ServingContext& serving);

}  // namespace tessera
