// Loss and slope of one logit of a focal loss.
#pragma once

#include "common/numeric.cuh"

#include <cfloat>

struct Element {
  float loss;
  float slope;
};

// Unweighted loss p^gamma * -ln(1 - p) and slope at z, p being the sigmoid of z: the probability of the
// wrong answer, towards which z grows. One exponential t = exp(-|z|) gives sigmoid(|z|) = 1 / (1 + t),
// sigmoid(-|z|) = t / (1 + t) and softplus(z) = max(z, 0) + ln(1 + t), each exact in its tail.
// STANDARD: gamma is taken as 2 and smoothed, half a label smoothing, as 0.
template <typename T, bool STANDARD>
__device__ __forceinline__ Element focal(float z, float any_gamma, float any_smoothed) {
  const float gamma = STANDARD ? 2.0f : any_gamma;
  const float smoothed = STANDARD ? 0.0f : any_smoothed;
  const float t = exp_of_minus<T>(fabsf(z));
  const float larger = reciprocal(1.0f + t);
  const float smaller = t * larger;
  const float wrong = z < 0.0f ? smaller : larger;
  const float right = z < 0.0f ? larger : smaller;
  float entropy = fmaxf(z, 0.0f) + ln_1p<T>(t);
  if (!STANDARD && smoothed != 0.0f) entropy -= smoothed * z;
  const float focus = STANDARD ? wrong * wrong : powf(wrong, gamma);
  // At infinity `right` is 0, and 0 times the largest number is the limit that 0 times infinity is
  // not.
  const float pull = gamma * right * fminf(entropy, FLT_MAX);
  return {focus * entropy, focus * (pull + (wrong - smoothed))};
}
