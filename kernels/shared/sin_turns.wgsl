// The sine of an angle in turns, as a fraction of 2^32, good to 1e-7: WGSL promises nothing of sin beyond pi. The
// nearest quarter turn chooses between the series of sin and cos and the sign.

fn sin_turns(turns: u32) -> f32 {
    let quarter = (turns + 0x20000000u) >> 30u;
    let angle = f32(bitcast<i32>(turns - (quarter << 30u))) * 1.4629180792671596e-9;  // 2 pi / 2^32
    let a = angle * angle;
    let sine = angle + angle * a * (-1.6666654611e-1 + a * (8.3321608736e-3 - a * 1.9515295891e-4));
    let cosine = 1.0 - 0.5 * a + a * a * (4.166664568298827e-2 + a * (-1.388731625493765e-3 + a * 2.443315711809948e-5));
    let value = select(sine, cosine, (quarter & 1u) != 0u);
    return select(value, -value, (quarter & 2u) != 0u);
}
