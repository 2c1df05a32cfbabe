// The natural logarithm of a normal number above 0, good to 1e-7 of its value, also next to 1. There WGSL lets a
// driver's own be wrong by 2^-21, which may be more than the value itself, and give it the wrong sign.
//   x = 2^e m with m from sqrt(1/2) to sqrt(2)        log(x) = e log(2) + log(m)
// The polynomial is that of Cephes' logf. No step is infinite or NaN; 0 gives -88, and infinity and NaN stay as they
// are.

fn natural_log(x: f32) -> f32 {
    // The bits of sqrt(1/2) become those of a power of two, so that the exponent is e.
    let bits = bitcast<u32>(x);
    let shifted = bits + (0x3F800000u - 0x3F3504F3u);
    let e = f32(i32(shifted >> 23u) - 127);
    let f = bitcast<f32>((shifted & 0x007FFFFFu) + 0x3F3504F3u) - 1.0;
    let z = f * f;
    let series = 3.3333331174e-1 + f * (-2.4999993993e-1 + f * (2.0000714765e-1 + f * (-1.6668057665e-1
        + f * (1.4249322787e-1 + f * (-1.2420140846e-1 + f * (1.1676998740e-1 + f * (-1.1514610310e-1
        + f * 7.0376836292e-2)))))));
    // log(2) in two parts, of which the second has few bits, so that its product with e is exact.
    let value = (f + (f * z * series - 2.12194440e-4 * e - 0.5 * z)) + 0.693359375 * e;
    return select(value, x, bits >= 0x7F800000u);
}
