// How attention hides keys.
#pragma once

namespace tfjs_lora {

/**
 * The score of a hidden key, and the start of the search for the largest score: the exponential of their difference is
 * 0.
 */
constexpr float kHidden = -1e30f, kLowest = -1e20f;

}  // namespace tfjs_lora
