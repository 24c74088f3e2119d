/* Linked into static commands: names are looked up in /etc/hosts and in DNS, whatever /etc/nsswitch.conf says.

   For anything else the C library would load modules of this machine, which fit the C library of this machine and not
   the one that is linked in; where the two differ, the process dies at its first name. */

#include <netdb.h>
#include <nss.h>

__attribute__((constructor)) static void look_up_in_files_and_dns(void)
{
    __nss_configure_lookup("hosts", "files dns");
}
