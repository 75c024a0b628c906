// Constants of GELU that every ISA's kernel uses.
#pragma once

namespace bitfold {

// 2 sqrt(2/pi), and that times 0.044715: twice the argument of tanh is x (linear + cubic x^2).
constexpr float kGeluLinear = 1.59576912f, kGeluCubic = 0.0713548163f;

// P(t) of the normal distribution's upper tail: see gelu_ps.
constexpr float kGeluTail[8] = {
    0.119629301f,  0.120753959f, 0.0999134853f, 0.128561646f,
    -0.0536836833f, 0.20635356f, -0.157203108f,  0.0356747806f};

}  // namespace bitfold
