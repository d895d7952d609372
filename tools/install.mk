# make install, uninstall, deb and dist. INSTALLED lists all installed files, once, as MODE:FILE:DESTINATION.
#
# The program and the library look for softcuda in ../lib/kvshare and kvshare beside themselves (driver/locate.c), so a library
# in another folder, like Debian's, gets a link to it.
BINDIR = $(PREFIX)/bin
LIBDIR = $(PREFIX)/lib
INCLUDEDIR = $(PREFIX)/include/kvshare
DATADIR = $(PREFIX)/share
ZSHDIR = $(DATADIR)/zsh/site-functions
COMPLETIONS = $(addprefix $(BUILD)/completion/,bash zsh)
MAN_PAGES = $(wildcard docs/man/*.1)
LIBKVSHARE_LINKS = $(notdir $(LIBKVSHARE) $(LIBKVSHARE_SONAME))
INSTALLED = 755:$(RUN):$(BINDIR)/kvshare-run \
	755:$(PRELOAD):$(PREFIX)/lib/kvshare/$(notdir $(PRELOAD)) \
	755:$(SOFTCUDA):$(PREFIX)/lib/kvshare/softcuda/$(notdir $(SOFTCUDA)) \
	$(LIBKVSHARE_CUPTI:%=755:%:$(PREFIX)/lib/kvshare/$(notdir $(LIBKVSHARE_CUPTI))) \
	755:$(LIBKVSHARE_FILE):$(LIBDIR)/$(notdir $(LIBKVSHARE_FILE)) \
	644:$(BUILD)/kvshare.pc:$(LIBDIR)/pkgconfig/kvshare.pc \
	644:$(BUILD)/completion/bash:$(DATADIR)/bash-completion/completions/kvshare-run \
	644:$(BUILD)/completion/zsh:$(ZSHDIR)/_kvshare-run \
	$(foreach file,vmm/kvshare.h driver/cu.h,644:$(file):$(INCLUDEDIR)/$(notdir $(file))) \
	$(foreach file,$(MAN_PAGES),644:$(file):$(DATADIR)/man/man1/$(notdir $(file)))
SOFTCUDA_LINK = $(if $(filter-out $(PREFIX)/lib,$(LIBDIR)),$(LIBDIR)/kvshare)

# It holds no path of this machine; a user whose toolkit is elsewhere passes the path to pkg-config (vmm/kvshare.pc.in).
$(BUILD)/kvshare.pc: vmm/kvshare.pc.in VERSION FORCE
	@mkdir -p $(@D)
	$(Q)sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' -e 's|@LIBDIR@|$(patsubst $(PREFIX)/%,$${prefix}/%,$(LIBDIR))|' \
		-e 's|@INCLUDEDIR@|$(patsubst $(PREFIX)/%,$${prefix}/%,$(INCLUDEDIR))|' $< >$@

$(COMPLETIONS): $(BUILD)/completion/%: $(RUN)
	@mkdir -p $(@D)
	$(Q)$(RUN) completion $* >$@

.PHONY: install uninstall deb dist
install: build $(BUILD)/kvshare.pc $(COMPLETIONS) ## install everything under PREFIX (/usr/local); honours DESTDIR
	$(Q)for entry in $(INSTALLED); do \
		to=$${entry#*:}; install -D -m "$${entry%%:*}" "$${to%%:*}" "$(DESTDIR)$${to#*:}" || exit 1; done
	$(Q)for link in $(LIBKVSHARE_LINKS); do ln -sf $(notdir $(LIBKVSHARE_FILE)) "$(DESTDIR)$(LIBDIR)/$$link" || exit 1; done
	$(Q)ln -sf $(notdir $(SOFTCUDA)) "$(DESTDIR)$(PREFIX)/lib/kvshare/softcuda/$(notdir $(SOFTCUDA_PLAIN))"
	$(Q)$(if $(SOFTCUDA_LINK),ln -sfnr "$(DESTDIR)$(PREFIX)/lib/kvshare" "$(DESTDIR)$(SOFTCUDA_LINK)")
	$(Q)$(if $(DESTDIR),,[ "$$(id -u)" -ne 0 ] || ldconfig)

uninstall: ## remove it again
	$(Q)for entry in $(INSTALLED) $(LIBKVSHARE_LINKS:%=::$(LIBDIR)/%) $(SOFTCUDA_LINK:%=::%) \
		::$(PREFIX)/lib/kvshare/softcuda/$(notdir $(SOFTCUDA_PLAIN)); do \
		to=$${entry#*:}; rm -f "$(DESTDIR)$${to#*:}" || exit 1; done
	$(Q)for dir in $(INCLUDEDIR) $(PREFIX)/lib/kvshare/softcuda $(PREFIX)/lib/kvshare; do \
		[ ! -d "$(DESTDIR)$$dir" ] || rmdir --ignore-fail-on-non-empty "$(DESTDIR)$$dir" || exit 1; done

# The last commit, and nothing else.
DIST = $(BUILD)/kvshare-$(VERSION).tar.gz
dist: ## pack the last commit into a tarball
	@mkdir -p $(BUILD)
	$(Q)git archive --format=tar.gz --prefix=kvshare-$(VERSION)/ -o $(DIST) HEAD
	@echo $(DIST)

# The packages are built from the tarball. Any complaint of lintian is an error.
deb: dist ## make Debian packages, without root, and check them with lintian
	$(Q)rm -rf $(BUILD)/deb && mkdir -p $(BUILD)/deb && tar -C $(BUILD)/deb -xzf $(DIST)
	$(Q)cd $(BUILD)/deb/kvshare-$(VERSION) && env -u MAKEFLAGS -u MFLAGS CUDA_HOME=$(abspath $(CUDA)) GPU='$(GPU)' \
		dpkg-buildpackage -b -us -uc >../build.log 2>&1 || { tail -n 40 ../build.log >&2; exit 1; }
	$(Q)lintian --allow-root --fail-on error,warning --suppress-tags initial-upload-closes-no-bugs $(BUILD)/deb/*.changes
	@ls $(BUILD)/deb/*.deb
