// GELU by the normal distribution function Phi, which WGSL does not have:
//   gelu(x) = x Phi(x)        gelu'(x) = Phi(x) + x phi(x)        phi(x) = exp(-x^2 / 2) / sqrt(2 pi)
// Phi(-|x|) = exp(-x^2 / 2) u P(u) with u = 1 / (1 + 0.35 |x|) and a polynomial P that was fitted to a relative error
// of 4e-8 over all |x| <= 14, so that small values of the left tail are right too. One exp serves Phi and phi. Beyond
// 14 all is as at 14, where the tail is 1e-44.

const SQRT_HALF_OVER_PI = 0.3989422804014327;  // 1 / sqrt(2 pi)

// exp(-x^2 / 2).
fn bell(x: vec4<f32>) -> vec4<f32> {
    let t = min(abs(x), vec4(14.0));
    return exp(-0.5 * t * t);
}

// Phi(x), given bell(x).
fn normal_distribution(x: vec4<f32>, bell: vec4<f32>) -> vec4<f32> {
    let u = 1.0 / (1.0 + 0.35 * min(abs(x), vec4(14.0)));
    var p = -0.029679522 * u + 0.14654583;
    p = p * u - 0.26096123;
    p = p * u + 0.165051;
    p = p * u - 0.027046608;
    p = p * u + 0.10711459;
    p = p * u + 0.119444914;
    p = p * u + 0.1399123;
    p = p * u + 0.13961871;
    let tail = bell * u * p;
    return select(1.0 - tail, tail, x < vec4(0.0));
}

fn gelu(x: vec4<f32>) -> vec4<f32> { return x * normal_distribution(x, bell(x)); }

fn gelu_slope(x: vec4<f32>) -> vec4<f32> {
    let bell = bell(x);
    return normal_distribution(x, bell) + clamp(x, vec4(-14.0), vec4(14.0)) * (SQRT_HALF_OVER_PI * bell);
}
