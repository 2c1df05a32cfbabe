# Debian packages without root and without touching the system: fetched with apt-get, unpacked with dpkg.
#
# To be sourced by a script that defines say and warn, and sets
#   scratch       a folder of its own
#   root          where packages are unpacked, laid out as under /
# It may set extra_suite to a further suite of Debian's.

extra_suite=

distro=unknown codename=unknown
if [ -r /etc/os-release ]; then
  distro=$(. /etc/os-release; echo "${ID:-unknown}")
  codename=$(. /etc/os-release; echo "${VERSION_CODENAME:-unknown}")
fi

apt() { # apt-get, or another command of apt's, with its own sources, lists and cache below $scratch
  local command=$1; shift
  "$command" -q -o Dir::State::Lists="$scratch/lists" -o Dir::Cache="$scratch/cache" \
    -o Dir::Etc::SourceList="$scratch/sources.list" -o Dir::Etc::SourceParts="$sources_parts" \
    -o APT::Sandbox::User="$(id -un)" -o Debug::NoLocking=true -o Acquire::Languages=none \
    -o Acquire::Retries=3 "$@"
}

sources_ready=unknown
prepare_sources() { # fetches the package lists, once
  [ $sources_ready = unknown ] || { [ $sources_ready = yes ]; return; }
  sources_ready=no
  if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
    warn "this system has no apt-get and dpkg: install what is missing with your own package manager"
    return 1
  fi
  mkdir -p "$scratch/lists/partial" "$scratch/cache/archives/partial"
  if [ "$distro" = debian ] && [ "$codename" != unknown ]; then
    # The machine's own mirror if it names one, and only Debian's suites: third-party sources are none of our business.
    local mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg signed=
    mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} 2>/dev/null | grep -v '^ *#' |
      grep -oE '(https?|file):[^ ]*/debian/?( |$)' | head -1 | tr -d ' ') || true
    mirror=${mirror:-http://deb.debian.org/debian}
    [ -r $keyring ] && signed="[signed-by=$keyring]"
    echo "deb $signed $mirror $codename main" >"$scratch/sources.list"
    [ -z "$extra_suite" ] || echo "deb $signed $mirror $extra_suite main" >>"$scratch/sources.list"
    sources_parts=/dev/null
  else
    cat /etc/apt/sources.list >"$scratch/sources.list" 2>/dev/null || true
    sources_parts=/etc/apt/sources.list.d
  fi
  say "fetching the package lists ($distro $codename)"
  apt apt-get update >"$scratch/update.log" 2>&1 || true
  if ! ls "$scratch"/lists/*Packages* >/dev/null 2>&1; then
    warn "could not fetch the package lists; apt-get said:"
    tail -5 "$scratch/update.log" >&2
    return 1
  fi
  sources_ready=yes
}

added_packages() { # WHAT...: the packages that installing WHAT would add to this system (nothing is installed)
  apt apt-get install --simulate --no-install-recommends "$@" 2>"$scratch/simulate.log" | awk '$1 == "Inst" { print $2 }'
}

unpack() { # SUITE-OPTION PACKAGE...: downloads and unpacks into $root; an empty SUITE-OPTION takes the default version
  local suite=$1; shift
  local debs="$scratch/debs"
  rm -rf "$debs"; mkdir -p "$debs"
  (cd "$debs" && apt apt-get download ${suite:+-t "$suite"} "$@" >"$scratch/download.log" 2>&1) || {
    warn "could not download $*; apt-get said:"
    tail -3 "$scratch/download.log" >&2
    return 1
  }
  local deb
  for deb in "$debs"/*.deb; do dpkg -x "$deb" "$root"; done
  rm -rf "$debs"
}

unpack_with_dependencies() { # SUITE PACKAGE...: PACKAGEs and what they need and this system lacks
  local suite=$1; shift
  local wanted
  # libc and its kin must be the system's own: two C libraries in one process do not work.
  wanted=$({ printf '%s\n' "$@"; added_packages ${suite:+-t "$suite"} "$@"; } | sed 's/:.*//' | sort -u |
    grep -vxE 'libc6|libc-bin|libgcc-s1|gcc-.*-base|libstdc\+\+6') || true
  # shellcheck disable=SC2086
  unpack "$suite" $wanted
}
